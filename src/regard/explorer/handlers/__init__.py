"""The handlers of the routes, by concept: each checks its parameters, calls the library, and returns a typed result."""
