// The heads of the atlas, in the order and within the bounds that are asked for.
import type { HeadStatistics } from "../api";

export const NAMES = ["entropy", "support", "first", "previous", "distance", "top", "received", "redundancy"] as const;

export interface Filter {
  /** A statistic, or "" for the place in the model. */
  readonly by: string;
  readonly descending: boolean;
  /** Bounds as typed; what is no number bounds nothing. */
  readonly least: string;
  readonly most: string;
  readonly layer: string;
}

export function statistic(one: HeadStatistics, name: string): number {
  return name === "redundancy" ? (one.redundancy?.similarity ?? 0) : (one[name as "entropy"] ?? 0);
}

export function chosen(heads: readonly HeadStatistics[], asked: Filter): HeadStatistics[] {
  const bound = (text: string, usual: number) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : usual);
  const [least, most] = [bound(asked.least, -Infinity), bound(asked.most, Infinity)];
  const kept = heads.filter((one) => {
    if (asked.layer !== "" && one.layer !== Number(asked.layer)) return false;
    if (!asked.by) return true;
    const value = statistic(one, asked.by);
    return value >= least && value <= most;
  });
  const sign = asked.descending ? -1 : 1;
  const by = asked.by;
  return kept.sort((a, b) => (by && sign * (statistic(a, by) - statistic(b, by))) || a.layer - b.layer || a.head - b.head);
}
