// Makes anew what is made from the contract. What needs a tool that is not here is left as it is, and named.
import { fileURLToPath } from "node:url";
import { generate } from "./generated.ts";

const { missing } = await generate(fileURLToPath(new URL("..", import.meta.url)));
for (const one of missing) process.stderr.write(`not made anew: ${one}\n`);
