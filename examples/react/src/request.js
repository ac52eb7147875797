/** What the backend answers; what it refuses is thrown. */
export const request = async (path, init) => {
  const response = await fetch(path, init);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
};

export const post = (path, body) => request(path, { method: "POST", body: JSON.stringify(body) });
