// Serves a folder of Edge Functions as a project does: a request for /NAME goes to the handler that NAME/index.ts
// passes to Deno.serve.
//
//   deno run … functions_main.ts FOLDER PORT WALL_CLOCK_MS

type Handler = (request: Request) => Response | Promise<Response>;

const [folder, port, wallClockMs] = Deno.args;
const handlers = new Map<string, Handler | null>();
const serve = Deno.serve;

function said(status: number, code: string, message: string): Response {
  return Response.json({ code, message }, { status });
}

// Each function calls Deno.serve when it is loaded. Here that only hands its handler over.
async function load(name: string): Promise<Handler | null> {
  let given: Handler | null = null;
  // deno-lint-ignore no-explicit-any
  (Deno as any).serve = (...args: any[]) => {
    given = args.find((a) => typeof a === "function") ?? args[0]?.handler;
    return { finished: Promise.resolve(), shutdown: () => Promise.resolve() };
  };
  try {
    await import(new URL(`file://${folder}/${name}/index.ts`).href);
  } catch (error) {
    console.error(`${name}: ${error instanceof Error ? error.message : error}`);
  }
  return given;
}

for (const entry of Deno.readDirSync(folder)) {
  const isOne = entry.isDirectory && !entry.name.startsWith("_") && !entry.name.startsWith(".");
  try {
    if (isOne && Deno.statSync(`${folder}/${entry.name}/index.ts`).isFile) {
      handlers.set(entry.name, await load(entry.name));
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function answer(request: Request): Promise<Response> {
  const handler = handlers.get(new URL(request.url).pathname.split("/")[1]);
  if (handler === undefined) return said(404, "NOT_FOUND", "Requested function was not found");
  if (handler === null) return said(503, "BOOT_ERROR", "Function failed to start (please check logs)");
  let timer = 0;
  // The handler itself goes on: nothing takes back what it has sent.
  const late = new Promise<Response>((resolve) => {
    timer = setTimeout(
      () => resolve(said(546, "WORKER_LIMIT", "Function failed due to not having enough compute resources (please check logs)")),
      Number(wallClockMs),
    );
  });
  try {
    return await Promise.race([handler(request), late]);
  } catch (error) {
    console.error(error instanceof Error ? error.name : "error");
    return new Response("Internal Server Error", { status: 500 });
  } finally {
    clearTimeout(timer);
  }
}

serve({ hostname: "127.0.0.1", port: Number(port), onListen: () => {} }, answer);
