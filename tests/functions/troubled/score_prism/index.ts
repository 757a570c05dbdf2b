import { troubled } from "../_shared/trouble.ts";

troubled("score_prism");
