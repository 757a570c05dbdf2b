// Runs before an Edge Function, in its process, and makes it one that is served as on the platform: whatever it listens
// with, it gets its requests from one port of the loopback, which stands in the first line that this says.
//
//   BACKFILL_WALL_CLOCK_MS=150000 deno run … --preload functions_boot.ts NAME/index.ts
import { Server } from "node:net";

type Info = Deno.ServeHandlerInfo;
type Handler = (request: Request, info: Info) => Response | Promise<Response>;
type OnError = (error: unknown) => Response | Promise<Response>;

const HOSTNAME = "127.0.0.1";
const LATE = "Function failed due to not having enough compute resources (please check logs)";
const wallClockMs = Number(Deno.env.get("BACKFILL_WALL_CLOCK_MS"));
Deno.env.delete("BACKFILL_WALL_CLOCK_MS");
const serve = Deno.serve;
let current: Handler | null = null;
let server: Deno.HttpServer<Deno.NetAddr> | null = null;
let isOpen = false;

// The reader of our output knows by this line that the function is served, and where.
function say(port: number): void {
  isOpen = true;
  console.log(`\x1eserved ${port}`);
}

// From now on this handler answers. The first call opens the port.
function open(handler: Handler, onError?: OnError): Deno.HttpServer<Deno.NetAddr> {
  current = async (request, info) => {
    try {
      return await handler(request, info);
    } catch (error) {
      console.error(error);
      return onError ? await onError(error) : new Response("Internal Server Error", { status: 500 });
    }
  };
  server ??= serve({ hostname: HOSTNAME, port: 0, onListen: ({ port }) => say(port) }, answer);
  return server;
}

async function answer(request: Request, info: Info): Promise<Response> {
  let timer = 0;
  // The handler itself goes on: nothing takes back what it has sent.
  const late = new Promise<Response>((resolve) => {
    timer = setTimeout(() => resolve(Response.json({ code: "WORKER_LIMIT", message: LATE }, { status: 546 })), wallClockMs);
  });
  try {
    return await Promise.race([current!(request, info), late]);
  } finally {
    clearTimeout(timer);
  }
}

// Deno.listen and Deno.serveHttp, with which std's serve and older frameworks work: a request is a connection with one
// request. Deno 2 has no serveHttp, and the platform still has.
type Asked = { request: Request; respond: (given: Response | Promise<Response>) => void };
const asked = new WeakMap<object, Asked>();

function listen(options: { port?: number; transport?: string }) {
  if (options.transport === "unix") throw new Error("an Edge Function cannot listen on a path");
  const addr = { transport: "tcp", hostname: HOSTNAME, port: options.port ?? 0 };
  const arrived: object[] = [];
  const takers: ((connection: object) => void)[] = [];
  open((request, info) =>
    new Promise<Response>((resolve) => {
      const connection = { localAddr: addr, remoteAddr: info.remoteAddr, rid: 0, close() {} };
      asked.set(connection, { request, respond: resolve });
      const take = takers.shift();
      if (take) take(connection);
      else arrived.push(connection);
    })
  );
  const accept = () => new Promise((resolve) => arrived.length ? resolve(arrived.shift()) : takers.push(resolve));
  return {
    addr, accept, rid: 0, close() {}, ref() {}, unref() {},
    async *[Symbol.asyncIterator]() {
      while (true) yield await accept();
    },
  };
}

function serveHttp(connection: object) {
  let next = asked.get(connection) ?? null;
  const nextRequest = () => {
    const one = next;
    next = null;
    const respondWith = async (given: Response | Promise<Response>) => one!.respond(await given);
    return Promise.resolve(one && { request: one.request, respondWith });
  };
  return {
    nextRequest, rid: 0, close() {},
    async *[Symbol.asyncIterator]() {
      for (let event = await nextRequest(); event; event = await nextRequest()) yield event;
    },
  };
}

// node:http and what is built on it, such as Express: its own server, on another address.
const nodeListen = Server.prototype.listen;
Server.prototype.listen = function (...given: unknown[]) {
  this.once("listening", () => say((this.address() as { port: number }).port));
  const told = given.findLast((one) => typeof one === "function") as (() => void) | undefined;
  return nodeListen.call(this, { host: HOSTNAME, port: 0 }, told);
};

const refused = (what: string) => () => {
  throw new Error(`an Edge Function cannot ${what}`);
};
// deno-lint-ignore no-explicit-any
Object.assign(Deno as any, {
  // deno-lint-ignore no-explicit-any
  serve: (...given: any[]) => {
    const options = given.find((one) => typeof one === "object") ?? {};
    return open(given.find((one) => typeof one === "function") ?? options.handler, options.onError);
  },
  listen,
  serveHttp,
  listenTls: refused("listen with TLS"),
  listenDatagram: refused("listen for datagrams"),
  exit: refused("end its process"),
});

// What was begun and not awaited fails alone. Before the function is served it is why it does not start.
for (const kind of ["unhandledrejection", "error"]) {
  globalThis.addEventListener(kind, (event) => {
    if (!isOpen) return;
    event.preventDefault();
    console.error((event as PromiseRejectionEvent).reason ?? (event as ErrorEvent).error);
  });
}

// deno-lint-ignore no-explicit-any
(globalThis as any).EdgeRuntime = {
  waitUntil: (task: Promise<unknown>) => Promise.resolve(task).catch((error) => console.error(error)),
};
