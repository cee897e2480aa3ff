// MikroORM 7 writes values into the SQL text, so that no plan is ever reused. This driver sends them as bound parameters,
// which its client (named-statements.ts) gives the name of a plan.
import {
  type AnyEntity,
  type Configuration,
  type EntityData,
  isRaw,
  type LoggingOptions,
  type QueryResult,
  type RawQueryFragment,
  type Transaction,
} from "@mikro-orm/core";
import { PostgreSqlConnection, PostgreSqlDriver } from "@mikro-orm/postgresql";
import { NativeQueryBuilder } from "@mikro-orm/sql";
import { CompiledQuery, type Kysely } from "kysely";
import { organizationIn, setOrganization } from "./tenant.ts";

/** `?` placeholders become $1, $2, ...; statements written with $1 pass as they are. */
function numberPlaceholders(sql: string): string {
  let count = 0;
  return sql.replace(/\\\?|\?/g, (match) => (match === "?" ? `$${++count}` : "?"));
}

/** Splices raw fragments among the parameters into the text, with their own parameters. */
function expandRaw(sql: string, params: readonly unknown[]): [string, unknown[]] {
  const values: unknown[] = [];
  let index = 0;
  const text = sql.replace(/\\\?|\?/g, (match) => {
    if (match !== "?") return match;
    const value = params[index++];
    if (!isRaw(value)) {
      values.push(value);
      return "?";
    }
    const [inner, innerValues] = expandRaw(value.sql, value.params ?? []);
    values.push(...innerValues);
    return inner;
  });
  return [text, values];
}

const isPlainObject = (value: unknown) =>
  value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype;

class BoundConnection extends PostgreSqlConnection {
  /** Sets the organization as every other transaction does; MikroORM would make a statement of its own. */
  override async begin(options: Parameters<PostgreSqlConnection["begin"]>[0] = {}) {
    const { sessionContext, ...rest } = options;
    const organizationId = organizationIn(sessionContext);
    // A savepoint is within a transaction that has it.
    if (organizationId === undefined || options.ctx !== undefined) return super.begin(options);
    const transaction = await super.begin(rest);
    try {
      const execute = (text: string, values: readonly unknown[]) =>
        this.execute(text, values, "run", transaction, options.loggerContext);
      await setOrganization(execute, organizationId);
    } catch (error) {
      // Gives the connection back.
      await transaction.rollback().execute();
      throw error;
    }
    return transaction;
  }

  override async execute<T extends QueryResult | EntityData<AnyEntity> | EntityData<AnyEntity>[]>(
    query: string | NativeQueryBuilder | RawQueryFragment,
    givenParams: readonly unknown[] | Record<string, unknown> = [],
    method: "all" | "get" | "run" = "all",
    ctx?: Transaction,
    loggerContext?: LoggingOptions,
  ): Promise<T> {
    let sql: unknown = query instanceof NativeQueryBuilder ? query.toRaw() : query;
    let params: unknown = givenParams;
    if (isRaw(sql)) [sql, params] = [sql.sql, sql.params];
    // Identifiers (??), named parameters and plain statements are left to MikroORM.
    if (typeof sql !== "string" || !Array.isArray(params) || params.length === 0 || sql.includes("??")) {
      return super.execute(query, givenParams, method, ctx, loggerContext);
    }
    let values: unknown[] = params;
    if (values.some((value) => isRaw(value))) [sql, values] = expandRaw(sql as string, values);
    const text = numberPlaceholders(sql as string);
    const bound = values.map((value) => (isPlainObject(value) ? JSON.stringify(value) : value));
    await this.ensureConnection();
    // MikroORM hands its abort signal in the logger context.
    const { signal, inflightQueryAbortStrategy, ...logged } = (loggerContext ?? {}) as {
      signal?: AbortSignal;
      inflightQueryAbortStrategy?: "cancel query";
    };
    return this.executeQuery(
      text,
      async () => {
        const client = (ctx ?? this.getClient()) as Kysely<unknown>;
        const result = await client.executeQuery(
          CompiledQuery.raw(text, bound),
          signal ? { signal, inflightQueryAbortStrategy } : undefined,
        );
        return this.transformRawResult(result as never, method);
      },
      { query: text, params: [], ...logged },
    );
  }
}

/** PostgreSQL with bound, named statements. Use with `driverOptions: { Client: NamedStatementClient }`. */
export class BoundPostgreSqlDriver extends PostgreSqlDriver {
  protected override readonly connection: PostgreSqlConnection;

  constructor(config: Configuration) {
    super(config);
    this.connection = new BoundConnection(config);
  }
}
