const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }

/** Text as HTML shows it, also inside a quoted attribute. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character]!)
}

/** The look of a page: system fonts, light and dark by the reader's setting, nothing from a network. */
export const STYLE = `
:root { color-scheme: light dark; --paper: #fbfbfa; --card: #fff; --ink: #1c1f23; --quiet: #666d76; --line: #dfe2e6; --s0: #1f6feb; --s1: #c2570c; --s2: #12805c; --up: #12805c; --down: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1d2024; --ink: #e7e9ec; --quiet: #9aa2ac; --line: #33383f; --s0: #6cb0ff; --s1: #f4a259; --s2: #5fcf9e; --up: #5fcf9e; --down: #ff8b80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; } h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; } h4 { margin: 1rem 0 .4rem; }
p { margin: .3rem 0; } .quiet { color: var(--quiet); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.2rem 0; }
.tile { flex: 1 1 120px; padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.tile b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; } .tile span { color: var(--quiet); font-size: .85rem; }
figure { margin: 0; padding: .5rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figure svg { display: block; width: 100%; max-width: 620px; margin: auto; } figcaption { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; justify-content: center; padding: .3rem; font-size: .9rem; }
.ring { fill: none; stroke: var(--line); } .axis { fill: var(--ink); font-size: 13px; } .scale { fill: var(--quiet); font-size: 9px; }
.area { fill-opacity: .13; stroke-width: 2; stroke-linejoin: round; }
.area.s0 { fill: var(--s0); stroke: var(--s0); } .area.s1 { fill: var(--s1); stroke: var(--s1); stroke-dasharray: 6 3; } .area.s2 { fill: var(--s2); stroke: var(--s2); stroke-dasharray: 2 3; }
.dot.s0 { fill: var(--s0); } .dot.s1 { fill: var(--s1); } .dot.s2 { fill: var(--s2); }
.key::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 50%; background: var(--s0); } .key.s1::before { background: var(--s1); } .key.s2::before { background: var(--s2); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; } .scroll.small { margin: .6rem 0; font-size: .88rem; } .small th, .small td { padding: .15rem .6rem; }
table { width: 100%; border-collapse: collapse; } th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid var(--line); } table > :last-child > tr:last-child > * { border-bottom: 0; }
th { color: var(--quiet); font-weight: 500; font-size: .85rem; } .num { text-align: right; font-variant-numeric: tabular-nums; } td.num { white-space: nowrap; } .mean td { font-weight: 600; background: color-mix(in srgb, var(--line) 35%, transparent); }
.group th { padding-top: .8rem; color: var(--ink); font-weight: 600; } .scores td:first-child { min-width: 10rem; overflow-wrap: anywhere; } .metric { margin-left: .5rem; color: var(--quiet); font-size: .85rem; } .note { padding: 0 .35em; border: 1px solid var(--line); border-radius: 4px; color: var(--quiet); font-size: .75rem; }
.bar { display: inline-block; width: 90px; height: 7px; margin-left: .6rem; border-radius: 4px; background: var(--line); overflow: hidden; vertical-align: 1px; } .bar i { display: block; height: 100%; background: var(--s0); }
.up { color: var(--up); } .down, .failed { color: var(--down); } .failed { overflow-wrap: anywhere; }
details { margin: .5rem 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; } summary { padding: .5rem .8rem; cursor: pointer; overflow-wrap: anywhere; } details > div { padding: 0 1rem 1rem; } details.inner > div { padding: 0 .6rem .3rem; }
.metrics { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 0 1.5rem; font-size: .88rem; } .metrics span { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px dotted var(--line); overflow-wrap: anywhere; }
.example { margin: .6rem 0; padding: .5rem .8rem; border-left: 3px solid var(--line); overflow-wrap: anywhere; } .example ul { margin: .2rem 0; padding: 0; list-style: none; } .example li { margin: .25rem 0; }
a { color: var(--s0); }
@media (max-width: 640px) { body { padding: 1.2rem .8rem 3rem; } th, td { padding: .3rem .45rem; } .bar { display: none; } .metric { display: block; margin: 0; } details > div { padding: 0 .7rem .8rem; } }
@media print { body { max-width: none; } details { break-inside: avoid; } }
`
