// Where the frames of a contact sheet lie: rows as wide as the sheet, each as high as its pictures make it.

const GAP = 14;
const CAPTION = 30;

/** Rows of `{top, height, cells: [{frame, left, width}]}`. Frames have a `ratio`, width by height. */
export function laidOut(frames, width) {
  const wanted = width < 560 ? 170 : 230;
  const rows = [];
  let [row, ratios, top] = [[], 0, 0];
  const close = (height) => {
    let left = 0;
    const cells = row.map((frame) => {
      const cell = { frame, left, width: frame.ratio * height };
      left += cell.width + GAP;
      return cell;
    });
    rows.push({ top, height, cells });
    top += height + CAPTION + GAP;
    [row, ratios] = [[], 0];
  };
  for (const frame of frames) {
    row.push(frame);
    ratios += frame.ratio;
    const height = (width - GAP * (row.length - 1)) / ratios;
    if (height <= wanted) close(height);
  }
  if (row.length) close(Math.min(wanted, (width - GAP * (row.length - 1)) / ratios));
  return { rows, height: Math.max(0, top - GAP) };
}

/** The first and the one past the last of the rows that touch the stretch from `from` to `to`. */
export function within(rows, from, to) {
  return [firstEndingAfter(rows, from), firstStartingAfter(rows, to)];
}

const firstEndingAfter = (rows, y) => found(rows, (row) => row.top + row.height + CAPTION > y);
const firstStartingAfter = (rows, y) => found(rows, (row) => row.top > y);

function found(rows, holds) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(rows[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}
