import { render } from "preact";
import { App } from "./app";
import { listen } from "./keys";
import { start } from "./state";
import { takeToken } from "./transport";

takeToken();
start();
listen();
render(<App />, document.getElementById("page")!);
