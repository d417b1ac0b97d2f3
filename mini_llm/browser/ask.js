// Answers questions about a page in Node: `node ask.js page.html` reads [[what, ...], ...] in JSON, and writes as many answers
'use strict'
const fs = require('node:fs')
const engine = require('./engine.js')

const html = fs.readFileSync(process.argv[2], 'utf8')
const inside = id => html.match(new RegExp(`<script type="[^"]+" id="${id}">(.*?)</script>`, 's'))[1]
const facts = JSON.parse(inside('facts'))
const tokenizer = new engine.Tokenizer(facts.tokenizer)
const model = new engine.Model(facts.shape, engine.fromBase64(inside('weights')))

const answers = {
  encode: text => tokenizer.encode(text),
  decode: ids => tokenizer.decode(ids),
  pieces: ids => tokenizer.pieces(ids),
  uniform: (seed, n) => { const random = new engine.Random(BigInt(seed)); return Array.from({ length: n }, () => random.uniform()) },
  candidates: (scores, knobs) => { const { ids, probs } = engine.candidates(Float64Array.from(scores), knobs); return [ids, Array.from(probs)] },
  scores: ids => { const cache = model.newCache(); return ids.map(id => Array.from(model.step(id, cache))) },
  looks: async ids => (await engine.looks(model, ids)).map(heads => heads.map(rows => rows.map(row => Array.from(row)))),
  async write(prompt, most, knobs, seed, given = []) {
    const ids = [], options = { end: tokenizer.end, given }
    for await (const { id } of engine.write(new engine.Reader(model), tokenizer.encode(prompt || '\n'), most, knobs, seed, options)) ids.push(id)
    return ids
  },
  async surprise(text) {
    const all = []
    for await (const { bits } of engine.surprise(new engine.Reader(model), tokenizer.encode(text))) all.push(bits)
    return all
  },
}

async function main() {
  const results = []
  for (const [what, ...args] of JSON.parse(fs.readFileSync(0, 'utf8'))) results.push(await answers[what](...args))
  process.stdout.write(JSON.stringify(results))
}
main()
