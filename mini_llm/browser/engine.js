// A language model of mini_llm in plain JavaScript: text to ids, ids to probabilities, probabilities to text.
// It reads what nbs/workshop/page.ipynb describes, and computes what the Python notebooks explain, in the same order.
'use strict'

// ---- Bytes -----------------------------------------------------------------------------------------------------

function fromBase64(text) { // -> Uint8Array
  const chars = atob(text), bytes = new Uint8Array(chars.length)
  for (let i = 0; i < bytes.length; i++) bytes[i] = chars.charCodeAt(i)
  return bytes
}

// A .safetensors file: the length of a header, the header in JSON, the numbers. -> {name: {dtype, shape, bytes}}
function readTensors(file) {
  const size = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + size))), tensors = {}
  delete header.__metadata__
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header))
    tensors[name] = { dtype, shape, bytes: file.subarray(8 + size + begin, 8 + size + end) }
  return tensors
}

// Numbers in 32 or 16 bits. A bfloat16 is the upper half of a float32. -> Float32Array
function floats({ dtype, bytes }) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (dtype === 'F32') return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true))
  const halves = Uint32Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true) << 16)
  return new Float32Array(halves.buffer)
}

// Below, bytes of a token are a string with a character from 0 to 255 for each: it can be a key, and be joined with +.
function latin(bytes) { let s = ''; for (const b of bytes) s += String.fromCharCode(b); return s }
function unlatin(s) { return Uint8Array.from(s, c => c.charCodeAt(0)) }

// ---- Text and ids (chapters 00 and 01) --------------------------------------------------------------------------

class Tokenizer {
  // pattern: a regular expression that cuts text; vocab: bytes of each id; specials: {text: id}
  constructor({ pattern, vocab, specials }) {
    this.pattern = new RegExp(pattern, 'gu')
    this.vocab = vocab.slice()
    this.ranks = new Map(vocab.map((b, id) => [b, id]))
    for (const [text, id] of Object.entries(specials)) this.vocab[id] = latin(new TextEncoder().encode(text))
    this.end = vocab.length // from here on, ids stand for no text
    this.known = new Map()
  }

  encode(text) { // -> ids; special tokens in a text are ordinary text
    const ids = [], utf8 = new TextEncoder()
    for (const chunk of text.match(this.pattern) ?? []) {
      if (!this.known.has(chunk)) this.known.set(chunk, this.join(latin(utf8.encode(chunk))))
      for (const id of this.known.get(chunk)) ids.push(id)
    }
    return ids
  }

  rank(left, right) { return right === undefined ? Infinity : this.ranks.get(left + right) ?? Infinity }

  // A chunk is a token, or its neighbours of the lowest rank are joined until none have one. -> ids
  join(chunk) {
    if (this.ranks.has(chunk)) return [this.ranks.get(chunk)]
    let parts = Array.from(chunk), scores = parts.map((p, i) => this.rank(p, parts[i + 1]))
    for (;;) {
      let best = Infinity
      for (const s of scores) if (s < best) best = s
      if (best === Infinity) return parts.map(p => this.ranks.get(p));
      [parts, scores] = this.pass(parts, scores, best)
    }
  }

  // Join all neighbours of one rank from left to right, but only until a pair of a lower rank has come about
  pass(parts, scores, best) {
    const joined = [], ranks = []
    for (let i = 0, lower = false; i < parts.length; i++) {
      let part = parts[i], score = scores[i]
      if (score === best && !lower) {
        part += parts[++i]
        score = this.rank(part, parts[i + 1])
        const before = joined.length - 1
        if (before >= 0) ranks[before] = this.rank(joined[before], part)
        lower = score < best || ranks[before] < best
      }
      joined.push(part)
      ranks.push(score)
    }
    return [joined, ranks]
  }

  bytes(ids) { return unlatin(ids.map(id => this.vocab[id]).join('')) }

  decode(ids) { return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.bytes(ids)) }

  // The text of each id in a row: half a character is '', and the id that completes it has it whole
  pieces(ids) {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    const texts = ids.map(id => decoder.decode(this.bytes([id]), { stream: true }))
    if (texts.length) texts[texts.length - 1] += decoder.decode()
    return texts
  }

  // A token by itself, with everything visible
  visible(id) {
    try { var text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(this.bytes([id])) }
    catch { text = this.vocab[id].replace(/[\x80-\xff]/g, c => '\\x' + c.charCodeAt(0).toString(16)) }
    return text.replaceAll(' ', '·').replaceAll('\n', '↵').replaceAll('\t', '→').replace(/[\p{Cc}\p{Cf}\p{Z}]/gu,
      c => 'U+' + c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0'))
  }
}

// ---- Random numbers: numpy's default_rng, so that a seed means the same here and there ------------------------------

// SeedSequence: spread a whole number over eight words of 32 bits
function spreadSeed(seed) {
  const entropy = [], pool = [], words = []
  for (let n = BigInt(seed); n > 0n || !entropy.length; n >>= 32n) entropy.push(Number(n & 0xffffffffn))
  let constant = 0x43b0d7e5
  function hash(x, factor) {
    x ^= constant
    constant = Math.imul(constant, factor)
    x = Math.imul(x, constant)
    return x ^ x >>> 16
  }
  function mix(i, x) {
    x = Math.imul(0xca01f9dd, pool[i]) - Math.imul(0x4973f715, hash(x, 0x931e8875)) | 0
    pool[i] = x ^ x >>> 16
  }
  for (let i = 0; i < 4; i++) pool.push(hash(entropy[i] ?? 0, 0x931e8875))
  for (let from = 0; from < 4; from++) for (let to = 0; to < 4; to++) if (from !== to) mix(to, pool[from])
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) mix(to, word)
  constant = 0x8b51f9dd
  for (let i = 0; i < 8; i++) words.push(BigInt(hash(pool[i % 4], 0x58f38ded) >>> 0))
  return words
}

class Random { // PCG64: a state of 128 bits, of which 64 are shown
  constructor(seed) {
    const w = spreadSeed(seed), wide = i => w[i + 1] << 96n | w[i] << 64n | w[i + 3] << 32n | w[i + 2]
    this.step = BigInt.asUintN(128, wide(4) << 1n | 1n)
    this.state = BigInt.asUintN(128, this.step + wide(0))
    this.next()
  }

  next() { // -> a whole number of 64 bits
    this.state = BigInt.asUintN(128, this.state * 0x2360ed051fc65da44385df649fccf645n + this.step)
    const mixed = BigInt.asUintN(64, this.state >> 64n ^ this.state), turn = this.state >> 122n
    return BigInt.asUintN(64, mixed >> turn | mixed << (64n - turn))
  }

  uniform() { return Number(this.next() >> 11n) / 2 ** 53 } // from 0 up to 1
}

// ---- The knobs (chapter 05) -------------------------------------------------------------------------------------

function softmax(scores) { // -> probabilities, which sum to 1
  const probs = new Float64Array(scores.length)
  let most = -Infinity, sum = 0
  for (let i = 0; i < probs.length; i++) if (scores[i] > most) most = scores[i]
  for (let i = 0; i < probs.length; i++) sum += probs[i] = Math.exp(scores[i] - most)
  for (let i = 0; i < probs.length; i++) probs[i] /= sum
  return probs
}

// Which to keep so that the fewest likeliest reach p together
function keepTopP(probs, p) {
  const falling = probs.slice().sort().reverse()
  let n = 0, sum = 0
  for (let i = 0; i < falling.length; i++) { sum += falling[i]; if (sum - falling[i] < p) n++ }
  const least = falling[Math.max(1, n) - 1]
  let ties = Math.max(1, n) - falling.indexOf(least)
  return i => probs[i] > least || probs[i] === least && ties-- > 0
}

// The distribution from which the next token is drawn. -> ids in order, and their probabilities
function candidates(scores, { temperature = 0.8, topK = 0, topP = 0.95, minP = 0 } = {}) {
  let most = 0
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[most]) most = i
  if (temperature === 0) return { ids: [most], probs: [1] }
  const floor = topK > 0 && topK < scores.length ? Float64Array.from(scores).sort().at(-topK) : -Infinity
  const best = scores[most]
  let ids = [], left = []
  const keep = which => {
    const places = [...ids.keys()].filter(which)
    ids = places.map(i => ids[i])
    left = places.map(i => left[i])
  }
  for (let id = 0; id < scores.length; id++)
    if (scores[id] >= floor) { ids.push(id); left.push((scores[id] - best) / temperature) }
  if (topP < 1) { const kept = keepTopP(softmax(left), topP); keep(kept) }
  if (minP > 0) { const probs = softmax(left), limit = minP * probs[left.indexOf(0)]; keep(i => probs[i] >= limit) }
  return { ids, probs: softmax(left) }
}

function draw({ ids, probs }, random) { // -> an id, with the probability it has
  const ends = []
  let sum = 0
  for (const p of probs) ends.push(sum += p)
  const at = random.uniform() * sum
  return ids[ends.findIndex(end => end > at)] ?? ids.at(-1)
}

// ---- The model (chapters 02 and 03) -----------------------------------------------------------------------------

// y = M x for a matrix in 8 bits: every 32 whole numbers of a row share a scale. Four rows at a time read x once.
function product({ values, scales, rows, cols }, x, y) {
  const perRow = Math.ceil(cols / 32), last = rows - 1
  for (let r = 0; r < rows; r += 4) {
    const r1 = Math.min(r + 1, last), r2 = Math.min(r + 2, last), r3 = Math.min(r + 3, last)
    const i0 = r * cols, i1 = r1 * cols, i2 = r2 * cols, i3 = r3 * cols
    const s0 = r * perRow, s1 = r1 * perRow, s2 = r2 * perRow, s3 = r3 * perRow
    let a = 0, b = 0, c = 0, d = 0
    for (let block = 0, j = 0; block < perRow; block++) {
      const end = Math.min(j + 32, cols)
      let e = 0, f = 0, g = 0, h = 0
      for (; j < end; j++) {
        const z = x[j]
        e += values[i0 + j] * z
        f += values[i1 + j] * z
        g += values[i2 + j] * z
        h += values[i3 + j] * z
      }
      a += e * scales[s0 + block]
      b += f * scales[s1 + block]
      c += g * scales[s2 + block]
      d += h * scales[s3 + block]
    }
    y[r] = a; y[r1] = b; y[r2] = c; y[r3] = d
  }
}

// RMSNorm of x[at], x[at+1], ... as many as there are weights, into out from `to` on
function norm(x, at, weight, eps, out, to) {
  let sum = 0
  for (let i = 0; i < weight.length; i++) sum += x[at + i] * x[at + i]
  const scale = 1 / Math.sqrt(sum / weight.length + eps)
  for (let i = 0; i < weight.length; i++) out[to + i] = x[at + i] * scale * weight[i]
}

function turn(x, at, cos, sin) { // rotary positions: the first half of a head with the second
  const half = cos.length
  for (let i = at; i < at + half; i++) {
    const a = x[i], b = x[i + half], c = cos[i - at], s = sin[i - at]
    x[i] = a * c - b * s
    x[i + half] = b * c + a * s
  }
}

class Model {
  constructor(shape, file) { // the fields of a `GPTConfig`, and the bytes of a .safetensors file
    const tensors = readTensors(file), vector = name => floats(tensors[`model.${name}.weight`])
    const matrix = name => {
      const { shape: [rows, cols], bytes } = tensors[`model.${name}.weight`]
      const values = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length)
      return { values, scales: floats(tensors[`model.${name}.weight_scale`]), rows, cols }
    }
    this.shape = shape
    this.embed = matrix('embed_tokens')
    this.norm = vector('norm')
    this.layers = Array.from({ length: shape.n_layer }, (_, i) => {
      const part = (kind, names) => names.map(name => kind(`layers.${i}.${name}`))
      const [norm1, norm2, qNorm, kNorm] = part(vector,
        ['input_layernorm', 'post_attention_layernorm', 'self_attn.q_norm', 'self_attn.k_norm'])
      const [q, k, v, o] = part(matrix, ['q', 'k', 'v', 'o'].map(x => `self_attn.${x}_proj`))
      const [gate, up, down] = part(matrix, ['gate', 'up', 'down'].map(x => `mlp.${x}_proj`))
      return { norm1, norm2, qNorm, kNorm, q, k, v, o, gate, up, down }
    })
    const { n_head, n_kv_head, head_dim, n_embd, n_ff, vocab_size, context_length } = shape
    const room = n => new Float64Array(n)
    this.room = { x: room(n_embd), h: room(n_embd), add: room(n_embd), q: room(n_head * head_dim),
      k: room(n_kv_head * head_dim), v: room(n_kv_head * head_dim), seen: room(n_head * head_dim),
      gate: room(n_ff), up: room(n_ff), logits: room(vocab_size), weights: room(context_length) }
  }

  newCache() {
    const { n_layer, n_kv_head, head_dim, context_length } = this.shape
    const make = () => Array.from({ length: n_layer }, () => new Float32Array(context_length * n_kv_head * head_dim))
    return { keys: make(), values: make(), length: 0 }
  }

  // Read one token. -> the scores of what follows it (to be copied before the next call), if they are wanted.
  // looks(layer, head, weights) is called with how much each token so far is looked at.
  step(id, cache, wanted = true, looks = null) {
    const { x, h, add, gate, up, logits } = this.room, { n_embd, head_dim, rope_theta, norm_eps } = this.shape
    const pos = cache.length, half = head_dim / 2, angles = new Float64Array(half)
    for (let i = 0; i < half; i++) angles[i] = pos * rope_theta ** (-2 * i / head_dim)
    const cos = angles.map(Math.cos), sin = angles.map(Math.sin), blocks = Math.ceil(n_embd / 32)
    for (let i = 0; i < n_embd; i++)
      x[i] = this.embed.values[id * n_embd + i] * this.embed.scales[id * blocks + (i >> 5)]
    this.layers.forEach((layer, l) => {
      norm(x, 0, layer.norm1, norm_eps, h, 0)
      this.attend(layer, cache.keys[l], cache.values[l], pos, cos, sin, looks && ((head, w) => looks(l, head, w)))
      for (let i = 0; i < n_embd; i++) x[i] += add[i]
      norm(x, 0, layer.norm2, norm_eps, h, 0)
      product(layer.gate, h, gate)
      product(layer.up, h, up)
      for (let i = 0; i < gate.length; i++) gate[i] = gate[i] / (1 + Math.exp(-gate[i])) * up[i]
      product(layer.down, gate, add)
      for (let i = 0; i < n_embd; i++) x[i] += add[i]
    })
    cache.length++
    if (!wanted) return null
    norm(x, 0, this.norm, norm_eps, h, 0)
    product(this.embed, h, logits)
    return logits
  }

  // Queries of this token look at the keys of all so far and gather their values, from room.h to room.add
  attend(layer, keys, values, pos, cos, sin, looks) {
    const { h, q, k, v, seen, add, weights } = this.room, { n_head, n_kv_head, head_dim, norm_eps } = this.shape
    product(layer.q, h, q)
    product(layer.k, h, k)
    product(layer.v, h, v)
    const width = k.length, share = n_head / n_kv_head, root = Math.sqrt(head_dim)
    for (let at = 0; at < q.length; at += head_dim) { norm(q, at, layer.qNorm, norm_eps, q, at); turn(q, at, cos, sin) }
    for (let at = 0; at < width; at += head_dim) { norm(k, at, layer.kNorm, norm_eps, k, at); turn(k, at, cos, sin) }
    keys.set(k, pos * width)
    values.set(v, pos * width)
    for (let head = 0; head < n_head; head++) {
      const from = head * head_dim, kv = Math.floor(head / share) * head_dim
      let most = -Infinity, sum = 0
      for (let p = 0; p <= pos; p++) {
        let score = 0
        for (let i = 0, at = p * width + kv; i < head_dim; i++) score += q[from + i] * keys[at + i]
        weights[p] = score / root
        if (weights[p] > most) most = weights[p]
      }
      for (let p = 0; p <= pos; p++) sum += weights[p] = Math.exp(weights[p] - most)
      seen.fill(0, from, from + head_dim)
      for (let p = 0; p <= pos; p++) {
        weights[p] /= sum
        for (let i = 0, at = p * width + kv; i < head_dim; i++) seen[from + i] += weights[p] * values[at + i]
      }
      if (looks) looks(head, weights.subarray(0, pos + 1))
    }
    product(layer.o, seen, add)
  }
}

// ---- Reading and writing (chapter 05) ---------------------------------------------------------------------------

class Reader { // remembers what it has read, and reads on from where the ids differ
  constructor(model) { this.model = model; this.cache = model.newCache(); this.ids = [] }

  // Scores of what follows some ids, at most a context of them; a word to `pause` before each, since it may take long
  async read(ids, pause = () => {}) {
    let same = 0
    while (same < ids.length - 1 && ids[same] === this.ids[same]) same++
    this.ids = this.ids.slice(0, this.cache.length = same)
    let scores
    for (let i = same; i < ids.length; i++) {
      await pause()
      scores = this.model.step(ids[i], this.cache, i === ids.length - 1)
      this.ids.push(ids[i])
    }
    return scores
  }
}

// Write on from ids, as `generate_ids` does: the same seed, the same tokens. Yields {id, scores, options};
// of the ids in `given`, with which the new text must begin, nothing is yielded.
async function* write(reader, prompt, most, knobs, seed, { end = Infinity, given = [], pause } = {}) {
  const limit = reader.model.shape.context_length, random = new Random(seed)
  let held = prompt.slice(-limit)
  for (let n = 0; n < most; n++) {
    let id = given[n]
    if (n < given.length) random.next()
    else {
      const scores = await reader.read(held, pause), options = candidates(scores, knobs)
      id = draw(options, random)
      if (id >= end) return
      yield { id, scores, options }
    }
    held.push(id)
    if (held.length > limit) held = held.slice(-Math.max(1, limit >> 1)) // a full window forgets its older half
  }
}

// How surprising each id of a text is: windows that do not overlap, the first id free. Yields {bits, probs}.
async function* surprise(reader, ids, pause = () => {}) {
  const { model } = reader, size = model.shape.context_length
  if (ids.length) yield { bits: 0, probs: null }
  for (let i = 0, cache = null; i < ids.length - 1; i++) {
    await pause()
    if (i % size === 0) cache = model.newCache()
    const probs = softmax(model.step(ids[i], cache))
    yield { bits: -Math.log2(probs[ids[i + 1]]), probs }
  }
}

// Who looks at whom: for each layer and head a row for each token. -> [layer][head][token] = Float32Array
async function looks(model, ids, pause = () => {}) {
  const { n_layer, n_head } = model.shape, cache = model.newCache()
  const maps = Array.from({ length: n_layer }, () => Array.from({ length: n_head }, () => []))
  for (const id of ids) {
    await pause()
    model.step(id, cache, false, (layer, head, weights) => maps[layer][head].push(Float32Array.from(weights)))
  }
  return maps
}

// The likeliest of some probabilities. -> [[id, probability], ...], the likeliest first, ties in order
function likeliest(probs, n) {
  const top = []
  for (let id = 0; id < probs.length; id++) {
    if (top.length === n && probs[id] <= top[n - 1][1]) continue
    let at = top.length
    while (at > 0 && top[at - 1][1] < probs[id]) at--
    top.splice(at, 0, [id, probs[id]])
    if (top.length > n) top.pop()
  }
  return top
}

if (typeof module === 'object')
  module.exports = { fromBase64, readTensors, floats, Tokenizer, Random, softmax, candidates, draw, product, Model,
    Reader, write, surprise, looks, likeliest }
