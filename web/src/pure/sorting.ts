// Sorting and filtering of the atlas's heads by a statistic.
import type { HeadSummary } from "../client/types";

export const STATISTICS = ["entropy", "support", "first", "previous", "distance", "top", "received", "redundancy"] as const;

export interface Filter {
  /** A statistic, or "" for layer and head. */
  readonly by: string;
  readonly descending: boolean;
  /** Bounds as typed; text that is not a number is ignored. */
  readonly least: string;
  readonly most: string;
  readonly layer: string;
}

export function statisticOf(head: HeadSummary, name: string): number {
  return name === "redundancy" ? (head.redundancy?.similarity ?? 0) : (head[name as "entropy"] ?? 0);
}

export function filterHeads(heads: readonly HeadSummary[], filter: Filter): HeadSummary[] {
  const bound = (text: string, fallback: number) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : fallback);
  const [least, most] = [bound(filter.least, -Infinity), bound(filter.most, Infinity)];
  const matching = heads.filter((head) => {
    if (filter.layer !== "" && head.layer !== Number(filter.layer)) return false;
    if (!filter.by) return true;
    const value = statisticOf(head, filter.by);
    return value >= least && value <= most;
  });
  const sign = filter.descending ? -1 : 1;
  const by = filter.by;
  return matching.sort((a, b) => (by && sign * (statisticOf(a, by) - statisticOf(b, by))) || a.layer - b.layer || a.head - b.head);
}
