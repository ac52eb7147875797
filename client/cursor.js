// Positions in the log: `LOG-SEQUENCE`, with an optional `.CHECK` (docs/protocol.md, section 2).

const FORM = /^(.+?)-(\d+)(\.|$)/;

const parse = (cursor) => FORM.exec(cursor) ?? [];

export const sameLog = (one, other) => parse(one)[1] === parse(other)[1];

/** Whether `cursor` comes after `position` in one log; anything comes after no position. */
export const isAfter = (cursor, position) => !position || +parse(cursor)[2] > +parse(position)[2];
