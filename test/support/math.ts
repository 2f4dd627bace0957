import type { Round } from './spec.js'

/** The error function to about 1e-15: erf x = 2/sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!, every term of one sign. */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x)
  let term = x
  let sum = x
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1)
    sum += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
}

/** Exact GELU: 0.5 x (1 + erf(x / sqrt 2)). */
export function gelu(x: number, round: Round): number {
  return round(round(0.5 * x) * round(1 + round(erf(round(x * round(Math.SQRT1_2))))))
}

/** 0.5 (1 + erf(x / sqrt 2)) + x e^(-x^2/2) / sqrt(2 pi) */
export function geluGradient(x: number, round: Round): number {
  const cdf = round(0.5 * round(1 + round(erf(round(x * round(Math.SQRT1_2))))))
  const density = round(round(Math.exp(round(-0.5 * round(x * x)))) * round(1 / Math.sqrt(2 * Math.PI)))
  return round(cdf + round(x * density))
}

/** sum_k a[ai + k as] b[bi + k bs], one rounding per product and per addition. */
export function dot(a: Float64Array, ai: number, as: number, b: Float64Array, bi: number, bs: number, n: number, round: Round): number {
  let sum = 0
  for (let k = 0; k < n; k++) sum = round(sum + round(a[ai + k * as]! * b[bi + k * bs]!))
  return sum
}
