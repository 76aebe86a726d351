// The official TypeScript SDK, v1.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema, LoggingMessageNotificationSchema, ResourceUpdatedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { ANSWERS, fill } from './answers.mjs';
import { run } from './items.mjs';

await run(async ({ url, command }, inbox) => {
  const client = new Client({ name: 'interop-ts1', version: '1.0.0' }, { capabilities: { sampling: {}, elicitation: {}, roots: {} } });
  client.setRequestHandler(CreateMessageRequestSchema, () => { inbox.sampled++; return ANSWERS.sampling; });
  client.setRequestHandler(ElicitRequestSchema, ({ params }) => { inbox.elicited++; return fill(params.requestedSchema); });
  client.setRequestHandler(ListRootsRequestSchema, () => { inbox.roots++; return ANSWERS.roots; });
  client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => { inbox.logs.push(params); });
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => { inbox.updates.push(params.uri); });
  const transport = url
    ? new StreamableHTTPClientTransport(new URL(url))
    : new StdioClientTransport({ command: command[0], args: command.slice(1), env: process.env, stderr: 'ignore' });
  let version;
  const setVersion = transport.setProtocolVersion?.bind(transport);
  transport.setProtocolVersion = (negotiated) => { version = negotiated; setVersion?.(negotiated); };
  await client.connect(transport);
  return {
    info: () => ({ version, server: client.getServerVersion()?.name, session: transport.sessionId }),
    listTools: () => client.listTools(),
    callTool: (params, { onprogress, signal, timeout } = {}) => client.callTool(params, undefined, { onprogress, signal, timeout }),
    getPrompt: (params) => client.getPrompt(params),
    setLevel: (level) => client.setLoggingLevel(level),
    ping: () => client.ping(),
    subscribe: (uri) => client.subscribeResource({ uri }),
    unsubscribe: (uri) => client.unsubscribeResource({ uri }),
    end: async () => { await transport.terminateSession?.(); await client.close(); },
    close: () => client.close(),
  };
});
