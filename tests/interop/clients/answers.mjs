// How the clients answer what servers ask them.
export const ANSWERS = {
  sampling: { role: 'assistant', model: 'fixed', stopReason: 'endTurn', content: { type: 'text', text: 'Paris' } },
  roots: { roots: [{ uri: 'file:///interop', name: 'interop' }] },
};

/** Fills in the strings that a form requires (or all it has), with Ada's data. */
export const fill = ({ properties, required }) => {
  const content = {};
  for (const key of required?.length ? required : Object.keys(properties)) {
    content[key] = properties[key].type === 'boolean' ? true : key === 'email' ? 'ada@example.com' : 'Ada';
  }
  return { action: 'accept', content };
};
