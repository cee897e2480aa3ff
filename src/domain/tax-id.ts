// Tax ids: the key that they match by (rules 7 to 11) and what their country's rules say of them (rule 19).
import { entityValidators, personValidators, stdnum, type Validator } from "stdnum";
import { withoutStack } from "./errors.ts";
import { LIMITS } from "./limits.ts";
import { dateProblem } from "./text.ts";

export type TaxIdCheck = "valid" | "checksum_failed" | "unknown_format";

/** Which of a country's validators are tried first. */
export type TaxIdHolder = "person" | "company";

/**
 * Rule 156: of taxIdKey, canonicalTaxId and checkTaxId, stdnum's validators included. One more where any of them says
 * something else of a tax id than before; every row has that with which it was written.
 */
export const TAX_ID_RULES = 2;

/**
 * The match key: letters and digits only, upper-cased, NFKC, decimal digits of any script as ASCII. The one function for
 * every path that reads or writes a tax id (rule 11). "" when nothing is left: no tax id (rule 8).
 */
export function taxIdKey(value: string): string {
  // The last NFKC: letters that the removed punctuation kept apart may compose (Hangul), and a key must be its own key.
  return withAsciiDigits(value.normalize("NFKC")).toUpperCase().replace(NEITHER_LETTER_NOR_DIGIT, "").normalize("NFKC");
}

const NEITHER_LETTER_NOR_DIGIT = /[^\p{L}\p{N}]/gu;

const withAsciiDigits = (value: string): string => value.replace(FOREIGN_DIGIT, asciiDigit);
const FOREIGN_DIGIT = /(?![0-9])\p{Nd}/gu;

/** Unicode has decimal digits in runs of ten, from 0 to 9, some right behind each other. */
function asciiDigit(digit: string): string {
  const codePoint = digit.codePointAt(0) as number;
  let before = codePoint;
  while (/\p{Nd}/u.test(String.fromCodePoint(before - 1))) before--;
  return String((codePoint - before) % 10);
}

/**
 * True when the value holds letters, numerals or combining marks that are not ASCII after NFKC, such as a Cyrillic А.
 * Callers refuse it (VALIDATION_ERROR) instead of guessing. Decimal digits of any script are no guess.
 */
export function hasForeignLetters(value: string): boolean {
  // Before upper-casing, which would turn ß into SS and a dotless ı into I.
  return FOREIGN.test(value.normalize("NFKC"));
}

// Ñ is no stranger: the alphabet of the Mexican RFC is A-Z, Ñ and &.
const FOREIGN = /(?![A-Za-z0-9Ññ]|\p{Nd})[\p{L}\p{N}\p{M}]/u;

/**
 * Rule 158: the compact form of a number, without the prefix of the country, by the country's validators; null where none
 * of them knows the form, whatever its check digits. Of a key, so that punctuation never matters, and its own canonical
 * form.
 */
export function canonicalTaxId(key: string, countryCode: string): string | null {
  let form: string | null = null;
  for (const validator of VALIDATORS.person.get(countryCode) ?? []) {
    const check = tryOne(validator, key, key);
    if (check === "valid") return validator.compact(key);
    if (check === "checksum_failed") form ??= validator.compact(key);
  }
  return form;
}

/** A canonical form that a key may stand for: in this country, or where that is null in any. */
export interface TaxIdForm {
  readonly form: string;
  readonly countryCode: string | null;
}

/** Rule 158: what to look for where nothing has the key itself. Tax ids are looked up without their country. */
export function taxIdForms(key: string): TaxIdForm[] {
  const prefix = key.slice(0, 2);
  const forms = [...new Set([prefix, ...COMPLETING])].flatMap((countryCode) => {
    const form = canonicalTaxId(key, countryCode);
    return form === null || form === key ? [] : [{ form, countryCode }];
  });
  return [{ form: key, countryCode: null }, ...forms];
}

// Countries where a number has another compact form for its leading zeros, or for a prefix that is not their code: EL of
// Greece, UNP of Belarus, FR of Monaco.
const COMPLETING = ["BE", "BY", "CR", "GR", "LI", "MC", "NL", "SM", "TN"];

/**
 * What the country's rules say; never throws. Valid if any number that its tax authority knows people or companies by
 * accepts it, whichever of the two the holder is: a sole trader may use a company's number, a company its owner's.
 */
export function checkTaxId(taxId: string, countryCode: string, type: TaxIdHolder): TaxIdCheck {
  if (taxId.length > LIMITS.taxId * 2 || hasForeignLetters(taxId)) return "unknown_format";
  const validators = VALIDATORS[type].get(countryCode);
  if (!validators) return "unknown_format";

  // Punctuation means nothing, except in few formats: Finland's century sign, the & of an RFC, Costa Rica's omitted zeros.
  const key = taxIdKey(taxId);
  const written = withAsciiDigits(taxId.normalize("NFKC")).toUpperCase().trim();
  const byKey = tryAll(validators, key, written);
  if (byKey === "valid" || written === key) return byKey;
  const asWritten = tryAll(validators, written, written);
  return asWritten === "unknown_format" ? byKey : asWritten;
}

/**
 * Rule 155: the check of an entity that gets this tax id. The one that it has keeps its check, whatever the validators say
 * of it since they were last updated: no write that leaves it alone is a change of it.
 */
export function nextTaxIdCheck(
  before: {
    readonly countryCode: string;
    readonly type: TaxIdHolder;
    readonly taxId: string | null;
    readonly taxIdCheck: TaxIdCheck | null;
  },
  taxId: string | null,
): TaxIdCheck | null {
  if (taxId === before.taxId) return before.taxIdCheck;
  return taxId === null ? null : checkTaxId(taxId, before.countryCode, before.type);
}

function tryAll(validators: readonly Rule[], value: string, written: string): TaxIdCheck {
  let result: TaxIdCheck = "unknown_format";
  for (const validator of validators) {
    const one = tryOne(validator, value, written);
    if (one === "valid") return one;
    if (one === "checksum_failed") result = one;
  }
  return result;
}

function tryOne({ validate }: Rule, value: string, written: string): TaxIdCheck {
  try {
    // Most numbers are of another country: stdnum makes an error for each.
    const { isValid, error } = withoutStack(() => validate(value, written));
    if (isValid) return "valid";
    // stdnum does not export its error classes.
    return error?.name === "InvalidChecksum" ? "checksum_failed" : "unknown_format";
  } catch {
    return "unknown_format"; // stdnum throws on some malformed input
  }
}

// `written` has the punctuation that `value` may have lost.
type Validate = (value: string, written: string) => { isValid: boolean; error?: Error };
interface Rule {
  validate: Validate;
  compact: (value: string) => string;
}

// What stdnum has that no tax authority knows anyone by. Everything else stays: in many countries the number of the
// identity card, of the company register or of social insurance is the tax id. A number without check digit is left
// out where it would pass every mistyped tax id of its length.
const NO_TAX_ID: Record<string, readonly string[]> = {
  AR: ["cbu"], // bank account
  AT: ["businessid", "vnr"], // court register, without check digit; social insurance
  CA: ["bc_bhn"], // health card
  CZ: ["dic", "rc"], // czechNumber instead: stdnum counts the leading 6 in, and ends the remainder of 10 in 1985
  DE: ["passport", "pwnr", "svnr"], // passport, identity card (both change in a lifetime), pension insurance
  DO: ["ncf"], // receipt
  ES: ["nss"], // social security
  FR: ["nir"], // social security
  GR: ["amka"], // social security
  IN: ["epic", "vid"], // voter card, temporary alias of an Aadhaar
  IT: ["aic"], // medicine
  MX: ["clabe"], // bank account
  NL: ["onderwijsnummer"], // pupil
  NO: ["kontonr"], // bank account
  NZ: ["bank"], // bank account
  PT: ["cc"], // document number of the identity card
  RO: ["onrc"], // trade register, without check digit
  TW: ["ban"], // the UBN once more, without its check digit
};

// Persons' numbers without check digit: for a company they would excuse a mistyped RUC (PY) or CUI (PE) of their length.
const PERSONS_ONLY: Record<string, readonly string[]> = { PE: ["ce"], PY: ["cedula"] };

// What stdnum lacks.
const asItIs = (value: string) => value;
const withoutCz = (value: string) => value.replace(/^CZ/, "");
const MORE: Record<TaxIdHolder, Record<string, Rule>> = {
  company: { CZ: { validate: czechNumber, compact: withoutCz } },
  person: {
    CZ: { validate: czechNumber, compact: withoutCz },
    // Cédula: 6 to 10 digits, no check digit. With a dash it is a NIT, which has one.
    CO: {
      validate: (value, written) => ({ isValid: /^[1-9]\d{5,9}$/.test(value) && /^[\d., ]+$/.test(written) }),
      compact: asItIs,
    },
    // The usual 12 digits, or 10, without the sign between birth date and serial.
    SE: {
      validate: (value) => {
        const personnummer = stdnum["SE"]?.["personnummer"];
        if (!personnummer || !/^\d{10}(\d\d)?$/.test(value)) return { isValid: false };
        return personnummer.validate(`${value.slice(0, -4)}-${value.slice(-4)}`);
      },
      compact: asItIs,
    },
  },
};

/**
 * DIČ: the number of a company, of 8 digits; a person's birth number, of 9 or 10; or 9 digits that begin with 6, of a
 * person whose birth number is not to be shown.
 */
function czechNumber(value: string): ReturnType<Validate> {
  const number = withoutCz(value);
  if (/^\d{8}$/.test(number)) return stdnum["CZ"]?.["dic"]?.validate(number) ?? { isValid: false };
  if (/^6\d{8}$/.test(number)) {
    const sum = [...number.slice(1, 8)].reduce((total, digit, i) => total + (8 - i) * Number(digit), 0);
    return checked(number, String((8 - ((21 - (sum % 11)) % 11) + 10) % 10));
  }
  const parts = /^(\d\d)(\d\d)(\d\d)\d{3}(\d?)$/.exec(number);
  if (parts === null) return { isValid: false };
  const [year, month, day] = [Number(parts[1]), Number(parts[2]), Number(parts[3])];
  const isLong = parts[4] !== "";
  // Until 1953 without a check digit. Women's months have 50 more; where serials run out 20 are added.
  if (!isLong && year > 53 && year < 80) return { isValid: false };
  const century = isLong ? (year < 54 ? "20" : "19") : year < 80 ? "19" : "18";
  const two = (part: number) => String(part).padStart(2, "0");
  if (dateProblem(`${century}${two(year)}-${two((month % 50) % 20)}-${two(day)}`) !== null) return { isValid: false };
  // A remainder of 10 has the check digit 0, after 1985 too.
  return isLong ? checked(number, String((Number(number.slice(0, 9)) % 11) % 10)) : { isValid: true };
}

function checked(number: string, digit: string): ReturnType<Validate> {
  if (number.endsWith(digit)) return { isValid: true };
  return { isValid: false, error: Object.assign(new Error("wrong check digit"), { name: "InvalidChecksum" }) };
}

// Built once: per country, those of the holder's kind first.
const VALIDATORS: Record<TaxIdHolder, ReadonlyMap<string, readonly Rule[]>> = {
  person: validatorsFor("person"),
  company: validatorsFor("company"),
};

function validatorsFor(type: TaxIdHolder): Map<string, Rule[]> {
  const preferred = type === "person" ? personValidators : entityValidators;
  // stdnum's own table forgets Anguilla; the two by kind have it.
  const countries = new Set([...Object.keys(stdnum), ...Object.keys(preferred)]);
  return new Map([...countries].map((country) => [country, validatorsOf(country, type, preferred[country] ?? [])]));
}

function validatorsOf(country: string, type: TaxIdHolder, preferred: readonly Validator[]): Rule[] {
  const named = stdnum[country] ?? {};
  const leftOut = new Set<unknown>([
    ...(NO_TAX_ID[country] ?? []).map((name) => named[name]?.validate),
    ...(type === "company" ? (PERSONS_ONLY[country] ?? []).map((name) => named[name]?.validate) : []),
  ]);
  const all: Rule[] = [...preferred, ...Object.values(named)];
  const more = MORE[type][country];
  const byValidate = new Map([...all, ...(more ? [more] : [])].map((validator) => [validator.validate, validator]));
  return [...byValidate.values()].filter(({ validate }) => !leftOut.has(validate));
}
