import { render } from "preact";
import { App } from "./app";
import { listenToKeys } from "./keys";
import { start } from "./state";
import { takeToken } from "./client/transport";

takeToken();
start();
listenToKeys();
render(<App />, document.getElementById("page")!);
