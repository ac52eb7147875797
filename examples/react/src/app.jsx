import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Tribus } from "tribus-client";
import { TribusProvider } from "tribus-client/react";
import { Orders } from "./orders.jsx";
import { request } from "./request.js";

const { url } = await request("/api/session");
const client = new Tribus(url, { getToken: async () => (await request("/api/session")).token });

// Events tell what is stale, so that nothing becomes it by age.
const queryClient = new QueryClient({ defaultOptions: { queries: { staleTime: Infinity } } });

createRoot(document.getElementById("app")).render(
  <StrictMode>
    <TribusProvider client={client}>
      <QueryClientProvider client={queryClient}>
        <Orders />
      </QueryClientProvider>
    </TribusProvider>
  </StrictMode>,
);
