// Countries by their two letters (ISO 3166-1 alpha-2): those of today, those that the standard has withdrawn and old
// records still name, and those that it leaves to its users.

const CURRENT = new Set(
  (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ " +
    "CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO " +
    "FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE " +
    "JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO " +
    "MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW " +
    "PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM " +
    "TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
  ).split(" "),
);

/** ISO 3166-3, where the two letters have not been given out again: sanctions lists have persons of East Germany. */
const WITHDRAWN = new Set("AN BU CS CT DD DY FQ FX HV JT MI NH NQ NT PC PU PZ RH SU TP VD WK YD YU ZR".split(" "));

/** Left to users by the standard: XK is widely Kosovo, ZZ is unknown. */
const USER_ASSIGNED = /^(AA|Q[M-Z]|X[A-Z]|ZZ)$/;

/** What many write instead of the code that the standard has. */
const MISTAKEN: Readonly<Record<string, string>> = { UK: "GB", EL: "GR" };

/** The code in upper case, or null where there is no such code. */
export function parseCountryCode(value: string): string | null {
  if (!/^[A-Za-z]{2}$/.test(value)) return null;
  const code = value.toUpperCase();
  return CURRENT.has(code) || WITHDRAWN.has(code) || USER_ASSIGNED.test(code) ? code : null;
}

/** What is wrong with a country code, with the code to use where one is known; or null. */
export function countryCodeProblem(value: string): string | null {
  if (!/^[A-Za-z]{2}$/.test(value)) return "must be two letters, ISO 3166-1 alpha-2";
  if (parseCountryCode(value) !== null) return null;
  const meant = MISTAKEN[value.toUpperCase()];
  return meant === undefined
    ? "is no code of ISO 3166-1 alpha-2: use ZZ for an unknown country"
    : `is no code of ISO 3166-1 alpha-2: use ${meant}`;
}
