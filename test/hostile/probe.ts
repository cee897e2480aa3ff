// Loaded into the service (node --import) by test/hostile: writes each turn of the event loop that was busy on the CPU
// for long, and on SIGUSR2 collects the garbage and writes what is left. Changes nothing of what the service does.
import { openSync, writeSync } from "node:fs";
import { PerformanceObserver, performance } from "node:perf_hooks";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const TICK_MS = 10;
const FROM_MS = 50;
const file = openSync(process.env.HOSTILE_PROBE_FILE ?? "/dev/null", "a");
const write = (line: object) => writeSync(file, `${JSON.stringify(line)}\n`);

let gcMs = 0;
new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) gcMs += duration;
}).observe({ entryTypes: ["gc"] });

const cpuMs = () => {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
};
let last = performance.now();
let lastCpu = cpuMs();
setInterval(() => {
  const now = performance.now();
  const cpu = cpuMs();
  // The timer was due a tick after the last: what came later than that was one turn.
  const wallMs = now - last - TICK_MS;
  const busyMs = Math.min(wallMs, cpu - lastCpu);
  if (wallMs > FROM_MS) {
    const to = performance.timeOrigin + now;
    write({ kind: "turn", from: to - wallMs, to, wallMs, busyMs, gcMs });
  }
  gcMs = 0;
  last = now;
  lastCpu = cpu;
}, TICK_MS).unref();

setFlagsFromString("--expose-gc");
// The last-resort collection also frees what V8 keeps for later: what remains is held, or leaked.
const collectBy = runInNewContext("gc") as (how: object) => void;
const collect = () => collectBy({ type: "major", execution: "sync", flavor: "last-resort" });
process.on("SIGUSR2", () => {
  collect();
  setTimeout(() => {
    collect();
    write({ kind: "memory", at: Date.now(), ...process.memoryUsage() });
  }, 100).unref();
});
// What to add to the monotonic clock, in which profiles are, for the times above.
const clock = performance.timeOrigin + performance.now() - Number(process.hrtime.bigint()) / 1e6;
write({ kind: "begin", at: Date.now(), pid: process.pid, clock });
