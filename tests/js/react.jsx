// Components for the tests of the hooks, bundled with a React and run in a page, or in Node. What they were given
// and how often they rendered is in `app.records`, by name.

import * as React from "react";
import { createRoot, hydrateRoot } from "react-dom/client";
import { renderToString } from "react-dom/server.browser";
import { QueryClient, QueryClientProvider, useMutation, useQuery } from "@tanstack/react-query";
import useSWR, { SWRConfig, useSWRConfig } from "swr";
import {
  invalidateOn, swr, tanstackQuery, TribusProvider, useTribus, useTribusEvent, useTribusInvalidation, useTribusStatus,
} from "tribus-client/react";

const { Activity = React.Fragment, StrictMode, useEffect, useState } = React;

const app = (globalThis.app = { records: {}, complaints: [], version: React.version, close() {} });

const recordOf = (name) => (app.records[name] ??= { renders: 0, value: {}, resets: [], errors: [], got: [] });

/** `renders`: those that were committed. */
const useRecord = (name, value) => {
  const record = recordOf(name);
  useEffect(() => {
    record.renders += 1;
    record.value = value;
  });
  return record;
};

// Inline arrays and objects throughout, as people write them.

const Feed = ({ name, topics, options }) => {
  const record = recordOf(name);
  const state = useTribus(topics && [...topics], {
    ...options,
    onReset: (reason) => record.resets.push(reason),
    onError: ({ code }) => record.errors.push(code),
  });
  useRecord(name, state);
  return <p id={name}>{state.events.map(({ data }) => data).join(" ")}</p>;
};

const Listener = ({ name, topics, options }) => {
  const record = useRecord(name);
  useTribusEvent([...topics], ({ data }) => record.got.push(data), {
    ...options,
    onReset: (reason) => record.got.push(reason),
  });
  return null;
};

const Status = ({ name }) => {
  const { state, transport } = useTribusStatus();
  useRecord(name);
  return <p id={name}>{state} {transport}</p>;
};

/** What a REST backend would be: an answer says what was there when it was asked. */
const backend = (app.backend = { value: 0, loads: 0, gate: undefined, fails: false });

const load = async () => {
  backend.loads += 1;
  const { value } = backend;
  await backend.gate;
  return value;
};

const change = async (value) => {
  await backend.gate;
  if (backend.fails) throw new Error("declined");
  backend.value = value;
};

const KEY = ["value"];

const Query = ({ name, topics, options }) => {
  const record = useRecord(name);
  const { data } = useQuery({ queryKey: KEY, queryFn: load, staleTime: Infinity });
  const live = useTribusInvalidation(topics && [...topics], {
    keys: [KEY],
    invalidate: tanstackQuery(app.queryClient),
    onReset: (reason) => record.resets.push(reason),
    ...options,
  });
  const { mutate } = useMutation({
    mutationFn: change,
    onMutate: async (value) => {
      const release = options?.holds === false ? () => {} : live.hold();
      await app.queryClient.cancelQueries({ queryKey: KEY });
      const before = app.queryClient.getQueryData(KEY);
      app.queryClient.setQueryData(KEY, value);
      return { before, release };
    },
    onError: (_error, _value, { before }) => app.queryClient.setQueryData(KEY, before),
    onSettled: (_data, _error, _value, { release }) => release(),
  });
  record.change = mutate;
  useEffect(() => {
    record.got.push(data);
  }, [record, data]);
  return <p id={name}>{data}</p>;
};

const Swr = ({ name, topics, options }) => {
  const record = useRecord(name);
  const { mutate } = useSWRConfig();
  const { data } = useSWR("/value", load, { revalidateOnFocus: false, revalidateOnReconnect: false });
  useTribusInvalidation([...topics], {
    keys: ["/value"],
    invalidate: swr(mutate),
    onReset: (reason) => record.resets.push(reason),
    ...options,
  });
  record.change = (value) =>
    mutate("/value", change(value).then(() => value), { optimisticData: value, rollbackOnError: true }).catch(() => {});
  useEffect(() => {
    record.got.push(data);
  }, [record, data]);
  return <p id={name}>{data}</p>;
};

const kinds = { feed: Feed, listener: Listener, status: Status, query: Query, swr: Swr };

const Shown = ({ kind, isHidden, ...rest }) => {
  const Kind = kinds[kind];
  const shown = <Kind {...rest} />;
  return React.Activity ? <Activity mode={isHidden ? "hidden" : "visible"}>{shown}</Activity> : shown;
};

const Page = ({ client, parts = [] }) => {
  const [shown, show] = useState(parts);
  app.show = show;
  return (
    <TribusProvider client={client}>
      <QueryClientProvider client={app.queryClient}>
        <SWRConfig value={{ provider: app.swrCache }}>
          {shown.map(({ id, ...part }) => <Shown key={id ?? part.name} {...part} />)}
        </SWRConfig>
      </QueryClientProvider>
    </TribusProvider>
  );
};

const swrCache = new Map();
app.swrCache = () => swrCache;
app.queryClient = new QueryClient();

app.prefetch = () => app.queryClient.prefetchQuery({ queryKey: KEY, queryFn: load });
app.invalidateOn = invalidateOn;
app.invalidate = (key) => tanstackQuery(app.queryClient)(key);

const begin = (show) => {
  const { error } = console;
  console.error = (...said) => {
    app.complaints.push(said.map(String).join(" "));
    error(...said);
  };
  return show(document.body.appendChild(document.createElement("div")));
};

app.open = (client) =>
  begin((place) => {
    const root = createRoot(place);
    app.close = () => root.unmount();
    root.render(<StrictMode><Page client={client} /></StrictMode>);
  });

app.html = (parts) => renderToString(<StrictMode><Page client={null} parts={parts} /></StrictMode>);

app.hydrate = (client, parts, html) =>
  begin((place) => {
    place.innerHTML = html;
    const root = hydrateRoot(place, <StrictMode><Page client={client} parts={parts} /></StrictMode>);
    app.close = () => root.unmount();
  });

/** As a component without a provider does it. */
app.bare = (...given) => renderToString(React.createElement(() => useTribus(...given).status.state));
