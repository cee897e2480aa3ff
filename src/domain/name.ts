// Names as they are searched and compared: folded words (rule 159). Pure, and the one place that folds a name: the words
// that are stored and those of a query come from here, so that they match.
import type { EntityValues } from "./entity-state.ts";

/** UTF-16 units of a word; what is behind them is neither stored nor compared. */
const WORD_UNITS = 64;
/** Different words of one entity that are stored, those of its name first, which may have 256 between blanks. */
const MAX_WORDS = 300;

/**
 * The words of a text, in its order: compatibility forms and accents taken off, in lower case, without punctuation.
 * "S.A." is one word, and so is "O'Brien".
 */
export function foldedWords(text: string): string[] {
  const isPlain = PLAIN.test(text);
  let folded = isPlain ? text.toLowerCase() : foldLetters(text);
  if (!isPlain || WITHIN_WORDS.test(folded)) {
    folded = folded.replace(APOSTROPHE, "").replace(ACRONYM, (letters) => letters.replaceAll(".", ""));
  }
  const words = folded.split(isPlain ? BETWEEN_PLAIN_WORDS : BETWEEN_WORDS).filter((word) => word !== "");
  return folded.length <= WORD_UNITS ? words : words.map(cut);
}

/** Most names are: they need no more than this. */
const PLAIN = /^[\x20-\x7e]*$/;
const WITHIN_WORDS = /['`.]/;
const BETWEEN_PLAIN_WORDS = /[^a-z0-9]+/;
const APOSTROPHE = /(?<=[\p{L}\p{N}])['\u2019\u02bc\uff07`\u00b4](?=[\p{L}\p{N}])/gu;
const ACRONYM = /(?<![\p{L}\p{N}])\p{L}(?:\.\p{L})+(?![\p{L}\p{N}])/gu;
const BETWEEN_WORDS = /[^\p{L}\p{N}\p{M}]+/u;
// The marks that write an accent, or a vowel that is mostly left out (Arabic, Hebrew). Other marks are letters of their
// scripts, as the vowels of Devanagari or Thai are: without them different names would be one.
const MARKS = [
  ...["\u0300-\u036f", "\u1ab0-\u1aff", "\u1dc0-\u1dff", "\u20d0-\u20ff", "\ufe20-\ufe2f"],
  ...["\u0591-\u05bd", "\u05bf", "\u05c1-\u05c2", "\u05c4-\u05c5", "\u05c7"],
  ...["\u0610-\u061a", "\u0640", "\u064b-\u065f", "\u0670", "\u06d6-\u06dc"],
];
const ACCENTS = new RegExp(`[${MARKS.join("")}\\p{Default_Ignorable_Code_Point}]`, "gu");

/** Letters whose stroke or ligature Unicode does not take apart. */
const LETTERS: Record<string, string> = {
  ...{ æ: "ae", œ: "oe", ø: "o", ł: "l", đ: "d", ð: "d", ħ: "h", þ: "th", ŧ: "t", ŋ: "n", ƒ: "f", ς: "σ" },
};
const LETTER = new RegExp(`[${Object.keys(LETTERS).join("")}]`, "gu");

function foldLetters(text: string): string {
  // To upper case first: ß becomes SS, and a dotless ı an I.
  return text
    .normalize("NFKD")
    .replace(ACCENTS, "")
    .toUpperCase()
    .toLowerCase()
    .normalize("NFKD")
    .replace(ACCENTS, "")
    .replace(LETTER, (letter) => LETTERS[letter] ?? letter);
}

/** Never half of a pair of surrogates. */
function cut(word: string): string {
  if (word.length <= WORD_UNITS) return word;
  const isHalf = /[\ud800-\udbff]/.test(word[WORD_UNITS - 1] as string);
  return word.slice(0, isHalf ? WORD_UNITS - 1 : WORD_UNITS);
}

type Named = Pick<EntityValues, "type" | "name" | "entityData">;

/** The different words of the name and the trading names, as they are stored: each behind a blank. */
export function nameWords(entity: Named): string {
  const words = new Set<string>();
  for (const name of [entity.name, ...tradingNamesOf(entity)]) {
    for (const word of foldedWords(name)) {
      words.add(word);
      if (words.size === MAX_WORDS) return textOf(words);
    }
  }
  return textOf(words);
}

const textOf = (words: ReadonlySet<string>) => [...words].map((word) => ` ${word}`).join("");

function tradingNamesOf({ type, entityData }: Named): string[] {
  const names = type === "company" ? entityData?.["tradingNames"] : undefined;
  return Array.isArray(names) ? names.filter((name) => typeof name === "string") : [];
}

/** What nameWords has as a list. */
export const wordsOf = (stored: string): string[] => (stored === "" ? [] : stored.slice(1).split(" "));

/**
 * The words that a query asks for, the longest first. One that begins another is left out: where the other is found, it
 * is found too.
 */
export function queryWords(query: string): string[] {
  const words = [...new Set(foldedWords(query))].toSorted((a, b) => b.length - a.length || (a < b ? -1 : 1));
  const kept: string[] = [];
  for (const word of words) if (!kept.some((longer) => longer.startsWith(word))) kept.push(word);
  return kept;
}

/** A name as it is compared with another one: its different words in an order of their own. "" without any. */
export const foldedName = (name: string): string => [...new Set(foldedWords(name))].toSorted().join(" ");
