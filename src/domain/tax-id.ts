// Tax ids: the key that they match by (rules 7 to 11) and what their country's rules say of them (rule 19).
import { entityValidators, personValidators, stdnum, type Validator } from "stdnum";
import { LIMITS } from "./limits.ts";
import { dateProblem } from "./text.ts";

export type TaxIdCheck = "valid" | "checksum_failed" | "unknown_format";

/** Which of a country's validators are tried first. */
export type TaxIdHolder = "person" | "company";

/**
 * The match key: letters and digits only, upper-cased, NFKC. The one function for every path that reads or writes a
 * tax id (rule 11). "" when nothing is left: no tax id (rule 8).
 */
export function taxIdKey(value: string): string {
  // The last NFKC: letters that the removed punctuation kept apart may compose (Hangul), and a key must be its own key.
  return value.normalize("NFKC").toUpperCase().replace(NEITHER_LETTER_NOR_DIGIT, "").normalize("NFKC");
}

const NEITHER_LETTER_NOR_DIGIT = /[^\p{L}\p{N}]/gu;

/**
 * True when the value holds letters, digits or combining marks that are not ASCII after NFKC: Arabic-Indic digits,
 * a Cyrillic А. Callers refuse it (VALIDATION_ERROR) instead of guessing. Full-width digits are ASCII by then.
 */
export function hasForeignLetters(value: string): boolean {
  // Before upper-casing, which would turn ß into SS and a dotless ı into I.
  return FOREIGN.test(value.normalize("NFKC"));
}

// Ñ is no stranger: the alphabet of the Mexican RFC is A-Z, Ñ and &.
const FOREIGN = /(?![A-Za-z0-9Ññ])[\p{L}\p{N}\p{M}]/u;

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
  const written = taxId.normalize("NFKC").toUpperCase().trim();
  const byKey = tryAll(validators, key, written);
  if (byKey === "valid" || written === key) return byKey;
  const asWritten = tryAll(validators, written, written);
  return asWritten === "unknown_format" ? byKey : asWritten;
}

function tryAll(validators: readonly Validate[], value: string, written: string): TaxIdCheck {
  let result: TaxIdCheck = "unknown_format";
  for (const validate of validators) {
    const one = tryOne(validate, value, written);
    if (one === "valid") return one;
    if (one === "checksum_failed") result = one;
  }
  return result;
}

function tryOne(validate: Validate, value: string, written: string): TaxIdCheck {
  try {
    const { isValid, error } = validate(value, written);
    if (isValid) return "valid";
    // stdnum does not export its error classes.
    return error?.name === "InvalidChecksum" ? "checksum_failed" : "unknown_format";
  } catch {
    return "unknown_format"; // stdnum throws on some malformed input
  }
}

// `written` has the punctuation that `value` may have lost.
type Validate = (value: string, written: string) => { isValid: boolean; error?: Error };

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
const MORE: Record<TaxIdHolder, Record<string, Validate>> = {
  company: { CZ: czechNumber },
  person: {
    CZ: czechNumber,
    // Cédula: 6 to 10 digits, no check digit. With a dash it is a NIT, which has one.
    CO: (value, written) => ({ isValid: /^[1-9]\d{5,9}$/.test(value) && /^[\d., ]+$/.test(written) }),
    // The usual 12 digits, or 10, without the sign between birth date and serial.
    SE: (value) => {
      const personnummer = stdnum["SE"]?.["personnummer"];
      if (!personnummer || !/^\d{10}(\d\d)?$/.test(value)) return { isValid: false };
      return personnummer.validate(`${value.slice(0, -4)}-${value.slice(-4)}`);
    },
  },
};

/**
 * DIČ: the number of a company, of 8 digits; a person's birth number, of 9 or 10; or 9 digits that begin with 6, of a
 * person whose birth number is not to be shown.
 */
function czechNumber(value: string): ReturnType<Validate> {
  const number = value.replace(/^CZ/, "");
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
const VALIDATORS: Record<TaxIdHolder, ReadonlyMap<string, readonly Validate[]>> = {
  person: validatorsFor("person"),
  company: validatorsFor("company"),
};

function validatorsFor(type: TaxIdHolder): Map<string, Validate[]> {
  const preferred = type === "person" ? personValidators : entityValidators;
  // stdnum's own table forgets Anguilla; the two by kind have it.
  const countries = new Set([...Object.keys(stdnum), ...Object.keys(preferred)]);
  return new Map([...countries].map((country) => [country, validatorsOf(country, type, preferred[country] ?? [])]));
}

function validatorsOf(country: string, type: TaxIdHolder, preferred: readonly Validator[]): Validate[] {
  const named = stdnum[country] ?? {};
  const leftOut = new Set<unknown>([
    ...(NO_TAX_ID[country] ?? []).map((name) => named[name]?.validate),
    ...(type === "company" ? (PERSONS_ONLY[country] ?? []).map((name) => named[name]?.validate) : []),
  ]);
  const all = new Set<Validate>([...preferred, ...Object.values(named)].map((validator) => validator.validate));
  const more = MORE[type][country];
  if (more) all.add(more);
  return [...all].filter((validate) => !leftOut.has(validate));
}
