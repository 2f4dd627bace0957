// Digits may be full-width: NFKC is not always on.
const D = '[0-9０-９]'
const NEAR = '[0-9０-９A-Za-z]'

const EMAIL = /(?<![\w.%+-])[\w.%+-]{1,64}[@＠](?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])/g
const RESIDENT_ID = new RegExp(`(?<!${NEAR})[1-9１-９]${D}{5}(?:[1１][89８９]|[2２][0０])${D}{9}[0-9０-９XxＸｘ](?!${NEAR})`, 'g')
const MOBILE = new RegExp(`(?<![0-9０-９.．])(?:(?:[+＋]|00)?86[- ]?)?[1１][3-9３-９]${D}(?:[- ]?${D}{4}){2}(?!${D})`, 'g')
const LANDLINE = new RegExp(`(?<![0-9０-９.．-])[(（]?0${D}{2,3}[)）]?[- —]?(?<=[)）\\- —])${D}{7,8}(?!${D})`, 'g')

/** What stands where personal data was. */
export const MASKS: Readonly<Record<'email' | 'residentId' | 'phone', string>> = {
  email: '[邮箱]',
  residentId: '[证件号]',
  phone: '[电话]',
}

/**
 * Masks e-mail addresses, resident ids of the mainland (18 places: a date of birth that exists and the right check digit, GB 11643) and its
 * phone numbers (mobile, and land lines written with their area code apart).
 */
export function maskPersonal(text: string): string {
  // A number of 7 digits or an @: without, there is nothing to find.
  if (!/[@＠]|[0-9０-９](?:[- ]?[0-9０-９]){6}/.test(text)) return text
  return text
    .replace(EMAIL, MASKS.email)
    .replace(RESIDENT_ID, (id) => (isResidentId(id.normalize('NFKC').toUpperCase()) ? MASKS.residentId : id))
    .replace(MOBILE, MASKS.phone)
    .replace(LANDLINE, MASKS.phone)
}

const WEIGHTS = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
const CHECK = '10X98765432'

/** 18 places, ASCII, with a date that exists and the check digit of ISO 7064 MOD 11-2. */
export function isResidentId(id: string): boolean {
  const [, year, month, day] = /^\d{6}(\d{4})(\d{2})(\d{2})\d{3}[\dX]$/.exec(id) ?? []
  if (year === undefined) return false
  const date = new Date(Date.UTC(Number(year), Number(month) - 1, Number(day)))
  if (date.getUTCMonth() + 1 !== Number(month) || date.getUTCDate() !== Number(day)) return false
  const sum = WEIGHTS.reduce((total, weight, i) => total + weight * Number(id[i]), 0)
  return CHECK[sum % 11] === id[17]
}
