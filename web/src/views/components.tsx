// Components that several views share.
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { brief } from "../pure/numbers";
import { css } from "../pure/ramps";
import { dialog, tokenText } from "../state";
import * as SAY from "../strings";

/** A token in the colour of its role, truncated. */
export function Token({ index, role, text }: { index: number; role: "query" | "key" | "plain"; text?: string | undefined }) {
  const tokenString = text ?? tokenText(index);
  return <span class={`token ${role}`} title={tokenString && tokenString.length > 40 ? tokenString.slice(0, 2000) : undefined}>{brief(tokenString)}</span>;
}

export function Section({ title, children, extra }: { title: string; children: ComponentChildren; extra?: ComponentChildren }) {
  return (
    <section class="part">
      <header>
        <h2>{title}</h2>
        {extra}
      </header>
      {children}
    </section>
  );
}

export function Choice<T extends string>({ label, value, among, onPick }: {
  label: string;
  value: T;
  among: readonly (readonly [T, string])[];
  onPick: (value: T) => void;
}) {
  return (
    <label class="choice">
      <span>{label}</span>
      <select value={value} onChange={(event) => onPick(event.currentTarget.value as T)}>
        {among.map(([name, text]) => (
          <option value={name} key={name}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

export function Check({ label, on, onPick }: { label: string; on: boolean; onPick: (on: boolean) => void }) {
  return (
    <label class="check">
      <input type="checkbox" checked={on} onChange={(event) => onPick(event.currentTarget.checked)} />
      <span>{label}</span>
    </label>
  );
}

/** A canvas at the screen's resolution, redrawn when `deps` change. */
export function Drawing({ draw, deps, label, height, onPoint, class: name }: {
  draw: (context: CanvasRenderingContext2D, width: number, height: number) => void;
  deps: readonly unknown[];
  label: string;
  height: number;
  onPoint?: (x: number, y: number, width: number, height: number) => void;
  class?: string;
}) {
  const ref = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const canvas = ref.current!;
    const paint = () => {
      const ratio = Math.min(devicePixelRatio, 2);
      const { clientWidth: width, clientHeight } = canvas;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(clientHeight * ratio);
      const context = canvas.getContext("2d")!;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      draw(context, width, clientHeight);
    };
    const observer = new ResizeObserver(paint);
    observer.observe(canvas);
    paint();
    return () => observer.disconnect();
  }, deps);
  const point = (event: PointerEvent) => {
    const { offsetX, offsetY, currentTarget } = event as PointerEvent & { currentTarget: HTMLCanvasElement };
    if (event.buttons) onPoint?.(offsetX, offsetY, currentTarget.clientWidth, currentTarget.clientHeight);
  };
  return (
    <canvas
      ref={ref}
      role="img"
      aria-label={label}
      class={name}
      style={{ height: `${height}px` }}
      onPointerDown={onPoint && point}
      onPointerMove={onPoint && point}
    />
  );
}

/** A colour ramp. */
export function Strip({ table, label }: { table: Uint8Array; label: string }) {
  return (
    <Drawing
      class="strip"
      label={label}
      height={12}
      deps={[table]}
      draw={(context, width, height) => {
        for (let x = 0; x < width; x++) {
          context.fillStyle = css(table, x / (width - 1));
          context.fillRect(x, 0, 1, height);
        }
      }}
    />
  );
}

/** A bar of a length between 0 and 1. */
export function Bar({ part, role = "weight" }: { part: number; role?: string }) {
  return (
    <span class="bar" aria-hidden="true">
      <i class={role} style={{ width: `${Math.min(Math.max(part, 0), 1) * 100}%` }} />
    </span>
  );
}

/** A modal dialog; the element that had the focus gets it back. */
export function Dialog({ title, children }: { title: string; children: ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    ref.current!.showModal();
    return () => before?.focus?.();
  }, []);
  const close = () => (dialog.value = "");
  return (
    <dialog ref={ref} onClose={close} onCancel={close} onClick={(event) => event.target === ref.current && close()} aria-label={title}>
      <div class="dialog">
        <header>
          <h2>{title}</h2>
          <button class="quiet" onClick={close}>
            {SAY.close} <kbd>Esc</kbd>
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}
