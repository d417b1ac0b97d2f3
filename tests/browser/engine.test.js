// The engine of the page by itself, in Node: `node --test tests/browser`. That it equals Python is shown by tests/test_page.py.
'use strict'
const test = require('node:test')
const assert = require('node:assert/strict')
const { fromBase64, readTensors, floats, Tokenizer, Random, softmax, candidates, draw, product, Model, Reader, write, surprise, looks, likeliest } = require('../../mini_llm/browser/engine.js')

const bytes = Array.from({ length: 256 }, (_, i) => String.fromCharCode(i))
const learned = (...more) => new Tokenizer({ pattern: '[^]', vocab: [...bytes, ...more], specials: {} })

// A .safetensors file of some tensors: {name: [dtype, shape, bytes]}
function file(tensors) {
  const header = {}, parts = []
  let at = 0
  for (const [name, [dtype, shape, data]] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [at, at += data.length] }
    parts.push(data)
  }
  const text = Buffer.from(JSON.stringify(header)), size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(text.length))
  return new Uint8Array(Buffer.concat([size, text, ...parts]))
}

// A small model with weights of no meaning: grouped queries, widths that fill no block of 32
const shape = { n_layer: 2, n_head: 4, n_kv_head: 2, head_dim: 6, n_embd: 20, n_ff: 40, vocab_size: 11, context_length: 8, rope_theta: 10000, norm_eps: 1e-6 }
function small() {
  let seed = 1
  const step = () => (seed = seed * 48271 % 2147483647) % 255 - 127
  const tensors = {}
  const vector = (name, n) => { tensors[`model.${name}.weight`] = ['F32', [n], Buffer.from(Float32Array.from({ length: n }, () => 1 + step() / 500).buffer)] }
  const matrix = (name, rows, cols) => {
    tensors[`model.${name}.weight`] = ['I8', [rows, cols], Buffer.from(Int8Array.from({ length: rows * cols }, step).buffer)]
    const blocks = Math.ceil(cols / 32)
    tensors[`model.${name}.weight_scale`] = ['BF16', [rows, blocks], Buffer.from(new Uint16Array(rows * blocks).fill(0x3b80).buffer)] // 1/256
  }
  matrix('embed_tokens', 11, 20)
  vector('norm', 20)
  for (const l of [0, 1]) {
    for (const n of ['input_layernorm', 'post_attention_layernorm']) vector(`layers.${l}.${n}`, 20)
    for (const n of ['q_norm', 'k_norm']) vector(`layers.${l}.self_attn.${n}`, 6)
    for (const [n, rows, cols] of [['q', 24, 20], ['k', 12, 20], ['v', 12, 20], ['o', 20, 24]]) matrix(`layers.${l}.self_attn.${n}_proj`, rows, cols)
    for (const [n, rows, cols] of [['gate', 40, 20], ['up', 40, 20], ['down', 20, 40]]) matrix(`layers.${l}.mlp.${n}_proj`, rows, cols)
  }
  return new Model(shape, file(tensors))
}

async function all(generator) { const res = []; for await (const o of generator) res.push(o); return res }

test('base64 and tensors give back bytes and numbers', () => {
  assert.deepEqual([...fromBase64('AP/+fw==')], [0, 255, 254, 127])
  const t = readTensors(file({ a: ['F32', [2], Buffer.from(Float32Array.of(1.5, -2).buffer)], b: ['BF16', [2], Buffer.from([0x80, 0x3f, 0x20, 0xc0])] }))
  assert.deepEqual([...floats(t.a)], [1.5, -2])
  assert.deepEqual([...floats(t.b)], [1, -2.5])
})

test('a chunk that is a token stays whole, others are joined by the lowest rank, from the left', () => {
  const t = learned('ab', 'aa', 'abc', 'abcd')
  assert.deepEqual(t.join('abcd'), [259])
  assert.deepEqual(t.join('abab'), [256, 256])
  assert.deepEqual(t.join('aaaaa'), [257, 257, 97])
  assert.deepEqual(t.join('aab'), [97, 256])
})

test('a pair of a lower rank that comes about in a pass is joined first', () => {
  const t = learned('xab', 'ab', 'abab') // no text teaches such ranks, but a file may hold them
  assert.deepEqual(t.join('xabab'), [256, 257])
  assert.deepEqual(t.join('abxabab'), [257, 256, 257])
  assert.deepEqual(learned('aba', 'ab').join('abab'), [256, 98])
})

test('long chunks take no time that grows with their square', () => {
  const t = learned('aa', 'aaaa', 'ab', 'abab'), start = performance.now()
  assert.equal(t.join('a'.repeat(200_000) + 'b').length, 50_001)
  assert.ok(performance.now() - start < 5000)
})

test('half a character waits for its other half, and is visible by itself', () => {
  const t = learned()
  assert.deepEqual(t.pieces([0xc3, 0xb1, 97]), ['', 'ñ', 'a'])
  assert.deepEqual(t.pieces([97, 0xc3]), ['a', '\ufffd'])
  assert.deepEqual([0xc3, 32, 10, 7, 97].map(id => t.visible(id)), ['\\xc3', '·', '↵', 'U+0007', 'a'])
  assert.equal(t.decode([0xef, 0xbb, 0xbf, 97]), '\ufeffa')
})

test('random numbers are those of numpy', () => { // np.random.default_rng(seed).random(2)
  const two = seed => { const r = new Random(seed); return [r.uniform(), r.uniform()] }
  assert.deepEqual(two(0), [0.6369616873214543, 0.2697867137638703])
  assert.deepEqual(two(42), [0.7739560485559633, 0.4388784397520523])
})

test('each knob cuts what it should', () => {
  const scores = [3, 2, 1, 0, 2].map(Math.log).map(s => Math.max(s, -99)), all = { temperature: 1, topK: 0, topP: 1, minP: 0 }
  const kept = knobs => candidates(scores, { ...all, ...knobs }).ids
  assert.deepEqual(kept({}), [0, 1, 2, 3, 4])
  assert.deepEqual(kept({ temperature: 0 }), [0])
  assert.deepEqual(kept({ topK: 2 }), [0, 1, 4]) // a tie stays
  assert.deepEqual(kept({ topP: .6 }), [0, 1])    // the first of a tie
  assert.deepEqual(kept({ topP: 0 }), [0])
  assert.deepEqual(candidates([1, 1], { ...all, topP: .5 }).ids, [0]) // one has reached it
  assert.deepEqual(kept({ minP: .5 }), [0, 1, 4])
  assert.deepEqual(candidates([0, 1e4], { ...all, temperature: .001 }).probs, Float64Array.of(0, 1))
  assert.equal(draw({ ids: [7, 9], probs: [.5, .5] }, { uniform: () => .5 }), 9)
})

test('products in blocks are products', () => {
  for (const [rows, cols] of [[1, 1], [5, 33], [4, 64], [7, 40]]) {
    const values = Int8Array.from({ length: rows * cols }, (_, i) => i * 37 % 255 - 127), perRow = Math.ceil(cols / 32)
    const scales = Float32Array.from({ length: rows * perRow }, (_, i) => 1 + i), x = Float64Array.from({ length: cols }, (_, i) => i - 3)
    const want = Float64Array.from({ length: rows }, (_, r) => x.reduce((sum, z, j) => sum + z * values[r * cols + j] * scales[r * perRow + (j >> 5)], 0))
    const y = new Float64Array(rows)
    product({ values, scales, rows, cols }, x, y)
    assert.deepEqual(y, want)
  }
})

test('a reader that goes back reads what one that begins anew reads', async () => {
  const model = small(), reader = new Reader(model)
  for (const ids of [[1, 2, 3], [1, 2, 3, 4], [1, 2, 5], [1, 2], [6]])
    assert.deepEqual(Array.from(await reader.read(ids)), Array.from(await new Reader(model).read(ids)))
})

test('a text begun with given ids goes on as the one they were taken from, past the window too', async () => {
  const model = small(), knobs = { temperature: 1, topP: 1 }, ids = async (most, given) =>
    (await all(write(new Reader(model), [1], most, knobs, 5, { given }))).map(o => o.id)
  const whole = await ids(20, [])
  assert.equal(whole.length, 20)
  for (const k of [1, 7, 13]) assert.deepEqual(await ids(20, whole.slice(0, k)), whole.slice(k))
  assert.deepEqual(await all(write(new Reader(model), [1], 9, { temperature: 0 }, 0, { end: 0 })), [])
})

test('heads look at what was, with weights that sum to 1', async () => {
  const maps = await looks(small(), [1, 2, 3])
  assert.deepEqual([maps.length, maps[0].length, maps[1][3].map(row => row.length)], [2, 4, [1, 2, 3]])
  for (const row of maps.flat(2)) assert.ok(Math.abs(row.reduce((a, b) => a + b) - 1) < 1e-6)
})

test('surprise begins anew after each window, and costs what softmax says', async () => {
  const model = small(), ids = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], read = await all(surprise(new Reader(model), ids))
  assert.equal(read.length, ids.length)
  assert.equal(read[0].bits, 0)
  assert.equal(read[9].bits, -Math.log2(softmax(await new Reader(model).read([9]))[10]))
  assert.deepEqual(likeliest([.2, .5, .2, .1], 3), [[1, .5], [0, .2], [2, .2]])
})
