// Stands for https://deno.land/std@…/http/server.ts, any version: the same names, over Deno.serve.

type Address = { transport: "tcp"; hostname: string; port: number };
export type ConnInfo = { localAddr: Address; remoteAddr: Deno.Addr };
export type Handler = (request: Request, connection: ConnInfo) => Response | Promise<Response>;
export type ServeInit = {
  port?: number;
  hostname?: string;
  signal?: AbortSignal;
  onError?: (error: unknown) => Response | Promise<Response>;
  onListen?: (address: { hostname: string; port: number }) => void;
};

export function serve(handler: Handler, options: ServeInit = {}): Promise<void> {
  const localAddr: Address = { transport: "tcp", hostname: "127.0.0.1", port: options.port ?? 8000 };
  const answer = (request: Request, { remoteAddr }: Deno.ServeHandlerInfo) => handler(request, { localAddr, remoteAddr });
  return Deno.serve(options.onError ? { onError: options.onError } : {}, answer).finished;
}

export const serveTls = serve;

export function serveListener(_listener: unknown, handler: Handler, options: ServeInit = {}): Promise<void> {
  return serve(handler, options);
}

export class Server {
  #init: ServeInit & { handler: Handler };

  constructor(init: ServeInit & { handler: Handler }) {
    this.#init = init;
  }

  serve(_listener?: unknown): Promise<void> {
    return serve(this.#init.handler, this.#init);
  }

  listenAndServe(): Promise<void> {
    return this.serve();
  }

  close(): void {}
}
