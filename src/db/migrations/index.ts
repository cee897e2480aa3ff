// The migrations, in order. One that has landed is never edited.
import { Init } from "./20261120120000_init.ts";

export const MIGRATIONS = [{ name: "20261120120000_init", class: Init }];
