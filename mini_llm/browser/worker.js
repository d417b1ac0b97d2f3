// The model at work, beside the page: it gets messages {task, job, ...} and answers with {job, ...}, piece by piece.
// A new job of a task ends the one before it.
'use strict'

const state = { jobs: {} }
const now = () => performance.now(), channel = new MessageChannel()

// Let messages in, if it was long enough since the last time; end the job if another has taken its place
function pauser(task, job) {
  let last = now()
  return async () => {
    if (now() - last > 25) {
      await new Promise(go => { channel.port1.onmessage = go; channel.port2.postMessage(0) })
      last = now()
    }
    if (state.jobs[task] !== job) throw new Cancelled()
  }
}

class Cancelled extends Error {}

const tasks = {
  load({ shape, tokenizer, weights }) {
    state.tokenizer = new Tokenizer(tokenizer)
    state.model = new Model(shape, fromBase64(weights))
    state.reader = new Reader(state.model)
    const ids = Array.from({ length: state.tokenizer.vocab.length }, (_, id) => id)
    return { names: ids.map(id => id in state.tokenizer.vocab ? state.tokenizer.visible(id) : '') }
  },

  // Write on from a text; `given` are the ids the new text begins with
  async write({ prompt, most, knobs, seed, given }, answer, pause) {
    const { tokenizer, reader } = state, start = tokenizer.encode(prompt || '\n'), began = now()
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true }), piece = id => decoder.decode(tokenizer.bytes([id]), { stream: true })
    let n = 0
    given.forEach(piece)
    for await (const { id, scores, options } of write(reader, start, most, knobs, seed, { end: tokenizer.end, given, pause })) {
      const probs = softmax(scores), after = new Map(options.ids.map((i, k) => [i, options.probs[k]]))
      const shown = likeliest(probs, 8)
      if (!shown.some(o => o[0] === id)) shown.push([id, probs[id]])
      answer({ id, text: piece(id), prob: probs[id], left: options.ids.length, options: shown.map(([i, p]) => [i, p, after.get(i) ?? 0]) })
      n++
      await pause()
    }
    return { speed: n / (now() - began) * 1000, ended: n < most - given.length }
  },

  cut({ text }) {
    const ids = state.tokenizer.encode(text)
    const bytes = ids.map(id => Array.from(state.tokenizer.bytes([id]), b => b.toString(16).padStart(2, '0')).join(' '))
    return { ids, bytes, pieces: state.tokenizer.pieces(ids), lengths: ids.map(id => state.tokenizer.vocab[id].length) }
  },

  // Bits and expectations of each token of a text
  async weigh({ text }, answer, pause) {
    const { ids, pieces, lengths } = tasks.cut({ text })
    answer({ ids, pieces, lengths })
    let k = 0
    for await (const { bits, probs } of surprise(state.reader, ids, pause))
      answer({ k: k++, bits, options: probs ? likeliest(probs, 5) : [] })
  },

  // Who looks at whom, in the last window of a text
  async look({ text }, answer, pause) {
    const { tokenizer, model } = state, ids = tokenizer.encode(text).slice(-model.shape.context_length)
    return { ids, pieces: tokenizer.pieces(ids), maps: await looks(model, ids, pause) }
  },
}

onmessage = async ({ data: { task, job, ...rest } }) => {
  state.jobs[task] = job
  if (task === 'stop') { state.jobs.write = null; return }
  const answer = message => postMessage({ job, ...message })
  try { answer({ ...await tasks[task](rest, answer, pauser(task, job)), done: true }) }
  catch (error) {
    if (error instanceof Cancelled) answer({ done: true, cancelled: true })
    else answer({ done: true, error: String(error) })
  }
}
