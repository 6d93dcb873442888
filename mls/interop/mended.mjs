// Corrects modules of ts-mls as they are loaded, where the pinned version of the library is
// not as RFC 9420 has it, or where it has no place for what an extension adds.
import { register } from 'node:module'

const mended = (source, faults) =>
  faults.reduce((text, [wrong, right]) => {
    if (!text.includes(wrong)) throw new Error('another version of ts-mls than the pinned one')
    return text.replace(wrong, right)
  }, source)

// mend has, by the name of a module below dist/src, pairs of what is there and what shall be.
export function mend(modules) {
  const hook = `const mended = ${mended}
const modules = ${JSON.stringify(modules)}
export async function load(url, context, next) {
  const module = await next(url, context)
  const name = Object.keys(modules).find((n) => url.endsWith('/ts-mls/dist/src/' + n))
  return name ? { ...module, source: mended(Buffer.from(module.source).toString(), modules[name]) } : module
}`
  register(`data:text/javascript,${encodeURIComponent(hook)}`)
}

// Of a tree that it receives, the library asks that a node and every ancestor of one of its
// unmerged leaves have the same list of unmerged leaves. RFC 9420 §12.4.3.1 asks only that
// the nodes between that leaf and the node list the leaf, so that most groups to which
// members were added one after the other would be refused. These belong to clientState.js.
export const unmergedLeaves = [
  ['for (const parentIdx of dp) {', 'for (const parentIdx of dp.slice(0, dp.indexOf(toNodeIndex(i)))) {'],
  ['!arraysEqual(dpNode.parent.unmergedLeaves, n.parent.unmergedLeaves)', '!dpNode.parent.unmergedLeaves.includes(unmergedLeaf)'],
  [`?.nodeType !== "leaf" && !dp.includes(`, `?.nodeType !== "leaf" || !dp.includes(`],
]
