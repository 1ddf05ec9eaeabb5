import { render } from "preact";
import { takeToken } from "./api";
import { App } from "./app";
import { listen } from "./keys";
import { start } from "./state";

takeToken();
start();
listen();
render(<App />, document.getElementById("page")!);
