// What every script, test and measurement needs that runs the service as a process of its own.
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { dirname, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const START_LIMIT_MS = 60_000;

/** What `npm start` gives, here or in another checkout, whose main.ts is `main`: the flags of node, and variables. */
export function settingsOfStart(main = fileURLToPath(new URL("../src/main.ts", import.meta.url))): {
  flags: string[];
  env: Record<string, string>;
} {
  const file = resolve(dirname(main), "../package.json");
  const { scripts } = JSON.parse(readFileSync(file, "utf8")) as { scripts: { start: string } };
  const words = scripts.start.split(" ");
  const assignments = words.slice(0, words.indexOf("exec")).map((word) => word.split("=") as [string, string]);
  return { flags: words.filter((word) => word.startsWith("--")), env: Object.fromEntries(assignments) };
}

/** Below the ports that the system gives to whoever listens on port 0 or connects: nobody is given one of these meanwhile. */
const FREE_PORTS = { from: 20_000, to: 32_000 };

/** A port of 127.0.0.1 that nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FREE_PORTS.from + Math.floor(Math.random() * (FREE_PORTS.to - FREE_PORTS.from));
    const server = createServer().listen(port, "127.0.0.1");
    try {
      await once(server, "listening");
    } catch {
      continue;
    }
    server.close();
    await once(server, "close");
    return port;
  }
}

export async function isListening(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** Waits until the process listens on the port; rejects where it ends before, or takes more than a minute. */
export async function listening(child: ChildProcess, port: number): Promise<void> {
  const limit = performance.now() + START_LIMIT_MS;
  while (!(await isListening(port))) {
    const end = child.exitCode ?? child.signalCode;
    if (end !== null) throw new Error(`${child.spawnargs.join(" ")} ended with ${end}`);
    if (performance.now() > limit) throw new Error(`${child.spawnargs.join(" ")} does not listen`);
    await sleep(50);
  }
}

/** Resident memory in bytes; 0 where there is no such process. */
export function residentBytes(pid: number): number {
  try {
    return 1024 * Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
