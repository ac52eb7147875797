// What few pages need, loaded by the client when it is asked for.

export { diagnose } from "./diagnose.js";
export { Tabs } from "./tabs.js";
export { native } from "./native.js";
export { sift } from "./sift.js";
export { publish } from "./publish.js";
