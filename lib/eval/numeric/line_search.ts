/** What the line search stops at (scipy's L-BFGS-B): sufficient decrease, curvature, relative width of the interval. */
const DECREASE = 1e-3
const CURVATURE = 0.9
const WIDTH = 0.1
const MAX_STEP = 1e10

/** One end of the interval of uncertainty: the step, the value and the slope there. */
interface Point {
  step: number
  f: number
  slope: number
}

/**
 * The line search of Moré and Thuente (ACM TOMS 20, 1994; MINPACK-2's dcsrch and dcstep), which finds a step with sufficient decrease and a
 * small enough slope. The caller evaluates: it starts with `step`, and after each evaluation asks `advance` for the next step until that says
 * it is done. Where rounding prevents progress the search is done too, at the step last evaluated.
 */
export class LineSearch {
  /** the step to evaluate */
  step: number
  readonly #f0: number
  readonly #slope0: number
  readonly #target: number
  #best: Point
  #other: Point
  #bracketed = false
  #firstStage = true
  #min = 0
  #max: number
  #width = MAX_STEP
  #widthBefore = 2 * MAX_STEP

  /** @param f0 the value at step 0 @param slope0 the slope there, below 0 @param step the first step to try, above 0 */
  constructor(f0: number, slope0: number, step: number) {
    this.#f0 = f0
    this.#slope0 = slope0
    this.#target = DECREASE * slope0
    this.#best = { step: 0, f: f0, slope: slope0 }
    this.#other = { step: 0, f: f0, slope: slope0 }
    this.#max = step + 4 * step
    this.step = step
  }

  /** Takes the value and the slope at `step`. True: the search is done and `step` is its result. False: `step` is the next to evaluate. */
  advance(f: number, slope: number): boolean {
    const step = this.step
    const enough = this.#f0 + step * this.#target
    if (this.#firstStage && f <= enough && slope >= 0) this.#firstStage = false
    const stuck = this.#bracketed && (step <= this.#min || step >= this.#max || this.#max - this.#min <= WIDTH * this.#max)
    const atMaximum = step === MAX_STEP && f <= enough && slope <= this.#target
    const atMinimum = step === 0 && (f > enough || slope >= this.#target)
    if (stuck || atMaximum || atMinimum || (f <= enough && Math.abs(slope) <= -CURVATURE * this.#slope0)) return true

    // While the value is lower than the best but not low enough, the step is predicted on f(step) - step * target.
    const tilt = this.#firstStage && f <= this.#best.f && f > enough ? this.#target : 0
    const tilted = (p: Point): Point => ({ step: p.step, f: p.f - p.step * tilt, slope: p.slope - tilt })
    const back = (p: Point): Point => ({ step: p.step, f: p.f + p.step * tilt, slope: p.slope + tilt })
    const next = nextStep(tilted(this.#best), tilted(this.#other), tilted({ step, f, slope }), this.#bracketed, this.#min, this.#max)
    this.#best = back(next.best)
    this.#other = back(next.other)
    this.#bracketed = next.bracketed

    this.step = next.step
    const { step: x } = this.#best
    const { step: y } = this.#other
    if (this.#bracketed) {
      if (Math.abs(y - x) >= 0.66 * this.#widthBefore) this.step = x + 0.5 * (y - x)
      this.#widthBefore = this.#width
      this.#width = Math.abs(y - x)
      this.#min = Math.min(x, y)
      this.#max = Math.max(x, y)
    } else {
      this.#min = this.step + 1.1 * (this.step - x)
      this.#max = this.step + 4 * (this.step - x)
    }
    this.step = Math.min(Math.max(this.step, 0), MAX_STEP)
    const cannotMove = this.#bracketed && (this.step <= this.#min || this.step >= this.#max || this.#max - this.#min <= WIDTH * this.#max)
    if (cannotMove) this.step = x
    return false
  }
}

/** dcstep: a safeguarded step and the new interval from the best point, the other end and the point just tried. */
function nextStep(
  best: Point,
  other: Point,
  tried: Point,
  bracketed: boolean,
  min: number,
  max: number,
): { best: Point; other: Point; step: number; bracketed: boolean } {
  const turned = Math.sign(tried.slope) * Math.sign(best.slope) < 0
  const { step: x, slope: dx } = best
  const { step: t, slope: dt } = tried
  const secant = t + (dt / (dt - dx)) * (x - t)
  if (tried.f > best.f) {
    const cubic = cubicFrom(best, tried, t < x ? -1 : 1, Number.NEGATIVE_INFINITY)
    const quadratic = x + (dx / ((best.f - tried.f) / (t - x) + dx) / 2) * (t - x)
    const step = Math.abs(cubic.step - x) <= Math.abs(quadratic - x) ? cubic.step : cubic.step + (quadratic - cubic.step) / 2
    return { best, other: tried, step, bracketed: true }
  }
  if (turned) {
    const cubic = cubicFrom(tried, best, t > x ? -1 : 1, Number.NEGATIVE_INFINITY)
    const step = Math.abs(cubic.step - t) > Math.abs(secant - t) ? cubic.step : secant
    return { best: tried, other: best, step, bracketed: true }
  }
  if (Math.abs(dt) < Math.abs(dx)) {
    // The cubic may have no minimum beyond t in the direction of the step: its root counts only where it has one.
    const { step: root, ratio, gamma } = cubicFrom(tried, best, t > x ? -1 : 1, 0)
    const cubic = ratio < 0 && gamma !== 0 ? root : t > x ? max : min
    const cubicNearer = Math.abs(cubic - t) < Math.abs(secant - t)
    const cubicFarther = Math.abs(cubic - t) > Math.abs(secant - t)
    if (!bracketed) return { best: tried, other, step: Math.min(Math.max(cubicFarther ? cubic : secant, min), max), bracketed }
    const limit = t + 0.66 * (other.step - t)
    const step = cubicNearer ? cubic : secant
    return { best: tried, other, step: t > x ? Math.min(limit, step) : Math.max(limit, step), bracketed }
  }
  const step = bracketed ? cubicFrom(tried, other, t > other.step ? -1 : 1, Number.NEGATIVE_INFINITY).step : t > x ? max : min
  return { best: tried, other, step, bracketed }
}

/** The minimiser of the cubic through two points with their slopes, as a step from `from`. @param floor lower bound of the discriminant */
function cubicFrom(from: Point, to: Point, sign: 1 | -1, floor: number): { step: number; ratio: number; gamma: number } {
  // The quotient is symmetric in the two points.
  const theta = (3 * (from.f - to.f)) / (to.step - from.step) + from.slope + to.slope
  const scale = Math.max(Math.abs(theta), Math.abs(from.slope), Math.abs(to.slope))
  const gamma = sign * scale * Math.sqrt(Math.max(floor, (theta / scale) ** 2 - (from.slope / scale) * (to.slope / scale)))
  const ratio = (gamma - from.slope + theta) / (gamma - from.slope + gamma + to.slope)
  return { step: from.step + ratio * (to.step - from.step), ratio, gamma }
}
