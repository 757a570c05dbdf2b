import { createServer } from "node:http";

createServer((_request, response) => response.end("on node")).listen(8000, "0.0.0.0");
