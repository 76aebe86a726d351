// What the items say it with, in every TypeScript client.
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const until = async (what, condition, ms = 20_000) => {
  for (const end = Date.now() + ms; Date.now() < end; await pause(20)) {
    const value = await condition();
    if (value) return value;
  }
  throw new Error(`waited in vain for ${what}`);
};
export const assert = (truth, message) => { if (!truth) throw new Error(message); };
export const textOf = (result) => { assert(!result.isError, `the tool failed: ${JSON.stringify(result.content)}`); return result.content.map((c) => c.text).join('\n'); };
