// The load, in a process of its own: closed loops over raw HTTP/2, which cost a server's test less than any
// client library. A job a line on standard input (JSON), its result a line on standard output. Every reply
// is checked, and one that is wrong ends the job with an error.
import { once } from "node:events";
import { type ClientHttp2Session, connect, type IncomingHttpHeaders, type OutgoingHttpHeaders } from "node:http2";
import { createInterface } from "node:readline";
import { cpuOf, cpuOfDatabase } from "./processes.ts";
import { callsOf, type Operation, visitOf } from "./requests.ts";

export interface Job {
  port: number;
  operation: Operation;
  /** Calls in flight. */
  concurrency: number;
  warmUpSeconds: number;
  seconds: number;
  /** One key for each organization; calls go to them in turn. */
  apiKeys: string[];
  entitiesPerOrganization: number;
  /** Processes whose CPU is counted. */
  serverPid: number;
  databasePid: number;
}

export interface Measurement {
  calls: number;
  requestsPerSecond: number;
  /** Milliseconds. */
  p50: number;
  p99: number;
  /** Microseconds of CPU for each call. */
  serverCpu: number;
  databaseCpu: number;
  loadCpu: number;
}

const CONNECTIONS = 4;
/** One in this many replies is decoded whole. */
const THOROUGH_EVERY = 64;
/** A prime that divides no number of entities here: stepping by it visits each once before any twice. */
const STEP = 611_953;

/** Runs a job. Throws on the first reply that is wrong. */
async function run(job: Job): Promise<Measurement> {
  const { apiKeys, entitiesPerOrganization, concurrency } = job;
  const calls = callsOf(job.operation, entitiesPerOrganization);
  const headers = apiKeys.map(
    (apiKey): OutgoingHttpHeaders => ({
      ":method": "POST",
      ":path": calls.path,
      "content-type": "application/grpc",
      te: "trailers",
      authorization: `Bearer ${apiKey}`,
    }),
  );
  const sessions = await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      const session = connect(`http://127.0.0.1:${job.port}`);
      await once(session, "connect");
      return session;
    }),
  );

  const entities = apiKeys.length * entitiesPerOrganization;
  let position = Math.floor(Math.random() * entities);
  let count = Date.now() % 1_000_000_000;
  let latencies: number[] = [];
  let running = true;
  const one = async (session: ClientHttp2Session) => {
    position = (position + STEP) % entities;
    const index = Math.floor(position / apiKeys.length);
    const value = visitOf(++count);
    const start = performance.now();
    const reply = await call(
      session,
      headers[position % apiKeys.length] as OutgoingHttpHeaders,
      calls.body(index, value),
    );
    latencies.push(performance.now() - start);
    const problem = calls.problem(reply, index, value, count % THOROUGH_EVERY === 0);
    if (problem !== undefined) throw new Error(problem);
  };
  const loops = Array.from({ length: concurrency }, async (_, i) => {
    while (running) await one(sessions[i % CONNECTIONS] as ClientHttp2Session);
  });
  const all = Promise.all(loops);
  const sleep = (seconds: number) => Promise.race([all, new Promise((resolve) => setTimeout(resolve, seconds * 1000))]);

  try {
    await sleep(job.warmUpSeconds);
    latencies = [];
    const before = { time: performance.now(), cpu: cpuNow(job) };
    await sleep(job.seconds);
    const measured = latencies;
    latencies = [];
    const after = { time: performance.now(), cpu: cpuNow(job) };
    running = false;
    await all;
    measured.sort((a, b) => a - b);
    const n = measured.length;
    if (n === 0) throw new Error("no call ended in time");
    return {
      calls: n,
      requestsPerSecond: n / ((after.time - before.time) / 1000),
      p50: measured[Math.floor(n * 0.5)] as number,
      p99: measured[Math.floor(n * 0.99)] as number,
      serverCpu: (after.cpu.server - before.cpu.server) / n,
      databaseCpu: (after.cpu.database - before.cpu.database) / n,
      loadCpu: (after.cpu.load - before.cpu.load) / n,
    };
  } finally {
    running = false;
    for (const session of sessions) session.destroy();
  }
}

function cpuNow({ serverPid, databasePid }: Job) {
  const { user, system } = process.cpuUsage();
  return { server: cpuOf(serverPid), database: cpuOfDatabase(databasePid), load: user + system };
}

/** The framed reply; throws unless the call ends with grpc-status 0. */
function call(session: ClientHttp2Session, headers: OutgoingHttpHeaders, body: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers);
    const chunks: Buffer[] = [];
    let status: string | undefined;
    let message = "";
    const trailers = (received: IncomingHttpHeaders) => {
      if (received["grpc-status"] === undefined) return;
      status = String(received["grpc-status"]);
      message = String(received["grpc-message"] ?? "");
    };
    stream.on("response", trailers);
    stream.on("trailers", trailers);
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      if (status !== "0") reject(new Error(`grpc-status ${status} ${decodeURIComponent(message)}`));
      else resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks));
    });
    stream.on("error", reject);
    stream.end(body);
  });
}

if (import.meta.main) {
  for await (const line of createInterface({ input: process.stdin })) {
    const result = await run(JSON.parse(line) as Job).catch((error: unknown) => ({ error: String(error) }));
    process.stdout.write(`${JSON.stringify(result)}\n`);
  }
}
