import { createClient } from "client";
import { greeting } from "greet/greeting.ts";

Deno.serve({ port: 9999, hostname: "0.0.0.0" }, () => new Response(`${greeting} ${typeof createClient}`));
