// The WebGL2 painter: values are float textures, the shader computes tones and colours as pure/tone.ts does.
import { Lru } from "../pure/lru";
import { pixelSize } from "../pure/tiles";
import { bandOf, bands, boxOf, type Painter, type Scene } from "./painter";

const VERTEX = `#version 300 es
uniform vec4 box;
out vec2 at;
void main() {
  at = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = vec4(mix(box.xy, box.zw, at), 0, 1);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D values, band, table;
uniform vec2 sides;
uniform float greatest, gamma, decades;
uniform bool logarithmic, signedValues, rows;
in vec2 at;
out vec4 colour;
void main() {
  ivec2 place = min(ivec2(at * sides), textureSize(values, 0) - 1);
  float value = texelFetch(values, place, 0).r;
  if (value == 0.0 && !signedValues) discard;
  float most = rows ? max(texelFetch(band, ivec2(0, place.y), 0).r, 1e-38) : greatest;
  float size = abs(value) / most;
  float part = logarithmic
    ? (size > 0.0 ? 0.02 + 0.98 * (1.0 + log(size) / log(10.0) / decades) : 0.0)
    : pow(size, gamma);
  part = clamp(part, 0.0, 1.0);
  if (signedValues) part = 0.5 + sign(value) * part / 2.0;
  colour = texelFetch(table, ivec2(int(part * 255.0 + 0.5), 0), 0);
}`;

let hardware: boolean | undefined;
/** Whether a graphics processor runs WebGL2. In software, Canvas2D takes a third of the time (e2e/performance.mjs). */
function hasHardware(): boolean {
  const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  const debugInfo = gl?.getExtension("WEBGL_debug_renderer_info");
  const name = String(gl?.getParameter(debugInfo ? debugInfo.UNMASKED_RENDERER_WEBGL : gl.RENDERER) ?? "none: software");
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
}

export class WebglPainter implements Painter {
  readonly kind = "webgl2";
  private readonly textures: Lru<WebGLTexture>;
  private readonly program: WebGLProgram;
  private readonly at = new Map<string, WebGLUniformLocation | null>();
  private readonly table: WebGLTexture;
  private readonly band: WebGLTexture;
  private uploadedTable: Uint8Array | null = null;

  /** A painter on a canvas, or null where no graphics processor runs WebGL2. */
  static on(canvas: HTMLCanvasElement): WebglPainter | null {
    if (!(hardware ??= hasHardware())) return null;
    const gl = canvas.getContext("webgl2", { alpha: true, antialias: false, depth: false, premultipliedAlpha: true });
    try {
      return gl && new WebglPainter(gl);
    } catch {
      return null;
    }
  }

  private constructor(private readonly gl: WebGL2RenderingContext) {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]] as const) {
      const shader = gl.createShader(kind)!;
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) ?? "no shader");
    this.program = program;
    for (const name of ["box", "values", "band", "table", "sides", "greatest", "gamma", "decades", "logarithmic", "signedValues", "rows"])
      this.at.set(name, gl.getUniformLocation(program, name));
    this.textures = new Lru<WebGLTexture>(200, (texture) => gl.deleteTexture(texture));
    this.table = this.texture();
    this.band = this.texture();
    gl.bindVertexArray(gl.createVertexArray());
  }

  private texture(): WebGLTexture {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
    for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, wrap, gl.CLAMP_TO_EDGE);
    return texture;
  }

  private floats(texture: WebGLTexture, cols: number, rows: number, values: Float32Array): void {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, cols, rows, 0, gl.RED, gl.FLOAT, values);
  }

  paint(scene: Scene): void {
    const { gl, at } = this;
    const { width, height, tone } = scene;
    gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.program);
    if (this.uploadedTable !== scene.table) {
      gl.activeTexture(gl.TEXTURE2);
      gl.bindTexture(gl.TEXTURE_2D, this.table);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, scene.table);
      this.uploadedTable = scene.table;
    }
    gl.uniform1i(at.get("values")!, 0);
    gl.uniform1i(at.get("band")!, 1);
    gl.uniform1i(at.get("table")!, 2);
    gl.uniform1f(at.get("greatest")!, tone.greatest);
    gl.uniform1f(at.get("gamma")!, tone.gamma);
    gl.uniform1f(at.get("decades")!, tone.decades);
    gl.uniform1i(at.get("logarithmic")!, Number(tone.log));
    gl.uniform1i(at.get("signedValues")!, Number(tone.signed));
    gl.uniform1i(at.get("rows")!, Number(scene.rows));
    const all = scene.rows ? bands(scene) : null;
    for (const { loaded } of scene.drawn) {
      const { rows, cols } = loaded.tile;
      gl.activeTexture(gl.TEXTURE1);
      if (all) this.floats(this.band, 1, rows, bandOf(all, loaded));
      else gl.bindTexture(gl.TEXTURE_2D, this.band);
      gl.activeTexture(gl.TEXTURE2);
      gl.bindTexture(gl.TEXTURE_2D, this.table);
      gl.activeTexture(gl.TEXTURE0);
      const texture = this.textures.get(loaded.key);
      if (texture) gl.bindTexture(gl.TEXTURE_2D, texture);
      else {
        const created = this.texture();
        this.floats(created, cols, rows, loaded.values);
        this.textures.set(loaded.key, created);
      }
      const { high, wide } = pixelSize(loaded.tile);
      gl.uniform2f(at.get("sides")!, wide, high);
      const { x0, x1, y0, y1 } = boxOf(scene, loaded);
      gl.uniform4f(at.get("box")!, (2 * x0) / width - 1, 1 - (2 * y0) / height, (2 * x1) / width - 1, 1 - (2 * y1) / height);
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }
  }

  dispose(): void {
    this.textures.clear();
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
