/** A part of a document under a heading of its own. */
export interface Section {
  readonly subtitle: string
  readonly passage: string
  /** 1 (h1) to 6 */
  readonly level: number
}

/** Gathers the text of a document and its sections, block by block. */
export interface Outline {
  heading(level: number, text: string): void
  block(text: string): void
  /**
   * `title`: the first heading of level 1, if there is one; `text`: everything but headings, a line per block; `sections`: those headings that
   * have text of their own, the title's not included.
   */
  end(): { title: string | undefined; text: string; sections: Section[] }
}

export function outline(): Outline {
  const all: string[] = []
  const sections: Section[] = []
  let title: string | undefined
  let heading: { level: number; text: string } | undefined
  let blocks: string[] = []
  const close = (): void => {
    if (heading && blocks.length > 0) sections.push({ subtitle: heading.text, passage: blocks.join('\n'), level: heading.level })
    blocks = []
  }
  return {
    heading(level, text) {
      close()
      const isTitle = level === 1 && title === undefined
      if (isTitle) title = text
      heading = isTitle || text === '' ? undefined : { level, text }
    },
    block(text) {
      if (text === '') return
      all.push(text)
      blocks.push(text)
    },
    end() {
      close()
      return { title, text: all.join('\n'), sections }
    },
  }
}
