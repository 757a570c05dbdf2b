// Hands the headers of backfill on, so that every row that an Edge Function writes has its receipt. Two lines a function:
//
//   import { handOn } from "../_shared/backfill.ts";         // before every other import
//   Deno.serve(handOn(async (request) => { … }));            // and so with std's serve
//
// Whatever the handler fetches from the project itself, the database or another function, then carries the headers of the
// call that it answers: clients may be made once for the module. Nothing is sent to anyone else.
import { AsyncLocalStorage } from "node:async_hooks";

// deno-lint-ignore no-explicit-any
type Handler = (request: Request, ...more: any[]) => Response | Promise<Response>;

const PREFIX = "x-backfill-";
const carried = new AsyncLocalStorage<[string, string][]>();
const project = new URL(Deno.env.get("SUPABASE_URL")!).origin;
const plainFetch = globalThis.fetch;

function isOwn(address: string): boolean {
  return URL.canParse(address) && new URL(address).origin === project;
}

globalThis.fetch = (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
  const headers = carried.getStore() ?? [];
  const asked = input instanceof Request ? input : null;
  if (!headers.length || !isOwn(asked ? asked.url : String(input))) return plainFetch(input, init);
  const sent = new Headers(init?.headers ?? asked?.headers);
  for (const [name, value] of headers) sent.set(name, value);
  return plainFetch(input, { ...init, headers: sent });
};

// The same handler, whose requests to the project carry the headers of the request that it answers.
export function handOn<H extends Handler>(handler: H): H {
  const carrying: Handler = (request, ...more) =>
    carried.run([...request.headers].filter(([name]) => name.startsWith(PREFIX)), () => handler(request, ...more));
  return carrying as H;
}
