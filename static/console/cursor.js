// Positions in the log: `LOG-SEQUENCE`, with an optional `.CHECK`.

/** Less than, equal to or greater than 0; null for cursors of different logs, which have no order. */
export function compareCursors(left, right) {
  const [leftLog, leftSequence] = splitCursor(left);
  const [rightLog, rightSequence] = splitCursor(right);
  if (leftLog !== rightLog || Number.isNaN(leftSequence + rightSequence)) return null;
  return leftSequence - rightSequence;
}

/** False for cursors of different logs. */
export function isUpTo(id, cursor) {
  const order = compareCursors(id, cursor);
  return order !== null && order <= 0;
}

function splitCursor(cursor) {
  const [position] = String(cursor).split(".");
  const dash = position.lastIndexOf("-");
  return [position.slice(0, dash), Number.parseInt(position.slice(dash + 1), 10)];
}
