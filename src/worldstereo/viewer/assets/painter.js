"use strict";
// What the 3D view is made of: vectors, unpacking, and a small WebGL 2 painter of points, lines and pictures.
// World and cameras use OpenCV axes (x right, y down, z forward).

// ---------------------------------------------------------------- vectors (arrays of 3) and quaternions [x, y, z, w]
const add = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const length = (a) => Math.hypot(a[0], a[1], a[2]);
const unit = (a) => a.map((v) => v / length(a));
const mix = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t);
const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

function quaternionOf(m) { // of a rotation matrix, row by row
  const w = Math.sqrt(Math.max(0, 1 + m[0] + m[4] + m[8])) / 2, x = Math.sqrt(Math.max(0, 1 + m[0] - m[4] - m[8])) / 2;
  const y = Math.sqrt(Math.max(0, 1 - m[0] + m[4] - m[8])) / 2, z = Math.sqrt(Math.max(0, 1 - m[0] - m[4] + m[8])) / 2;
  const largest = Math.max(w, x, y, z); // signs follow the largest, which is safely non-zero
  if (largest === w) return [(m[7] - m[5]) / (4 * w), (m[2] - m[6]) / (4 * w), (m[3] - m[1]) / (4 * w), w];
  if (largest === x) return [x, (m[1] + m[3]) / (4 * x), (m[2] + m[6]) / (4 * x), (m[7] - m[5]) / (4 * x)];
  if (largest === y) return [(m[1] + m[3]) / (4 * y), y, (m[5] + m[7]) / (4 * y), (m[2] - m[6]) / (4 * y)];
  return [(m[2] + m[6]) / (4 * z), (m[5] + m[7]) / (4 * z), z, (m[3] - m[1]) / (4 * z)];
}

function axesOf([x, y, z, w]) { // right, down, forward of a camera in the world
  return [
    [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)],
    [2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)],
    [2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)],
  ];
}

function slerp(a, b, t) {
  const cosine = a.reduce((sum, v, i) => sum + v * b[i], 0);
  const end = cosine < 0 ? b.map((v) => -v) : b;
  const angle = Math.acos(Math.min(1, Math.abs(cosine)));
  const [s, e] = angle < 1e-4 ? [1 - t, t] : [Math.sin((1 - t) * angle), Math.sin(t * angle)];
  const sum = a.map((v, i) => s * v + e * end[i]), norm = Math.hypot(...sum);
  return sum.map((v) => v / norm);
}

// A view: eye, turn (quaternion of world_from_cam), lens [fx, fy, cx, cy] in image heights, aspect of the image.
const blend = (a, b, t) => ({
  eye: mix(a.eye, b.eye, t), turn: slerp(a.turn, b.turn, t),
  lens: mix(a.lens, b.lens, t), aspect: a.aspect + (b.aspect - a.aspect) * t,
});

function cornersOf(view, size) { // of the image plane in the world, at the depth that makes the image `size` high
  const [fx, fy, cx, cy] = view.lens, [right, down, forward] = axesOf(view.turn), depth = size * fy;
  return [[0, 0], [view.aspect, 0], [view.aspect, 1], [0, 1]].map(([u, v]) =>
    add(add(add(view.eye, forward, depth), right, (u - cx) / fx * depth), down, (v - cy) / fy * depth));
}

// ---------------------------------------------------------------- unpacking
function bytesOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function unpackPoints(packed) {
  const levels = new Uint16Array(bytesOf(packed.positions).buffer);
  const positions = new Float32Array(levels.length);
  for (let i = 0; i < levels.length; i++) {
    const box = packed.boxes[Math.floor(i / 3 / packed.block)], axis = i % 3;
    positions[i] = box[axis] + levels[i] * box[axis + 3];
  }
  return { count: packed.count, footprint: packed.footprint, positions, colors: bytesOf(packed.colors) };
}

function unpackPath(path) {
  const views = path.poses.map((pose, i) => ({
    eye: pose.slice(9), turn: quaternionOf(pose.slice(0, 9)), lens: path.lenses[i], aspect: path.aspect,
  }));
  return { ...path, views, visible: true };
}

// ---------------------------------------------------------------- drawing
const CAMERA = `#version 300 es
precision highp float;
uniform mat3 turn; uniform vec3 eye; uniform vec4 lens; uniform vec2 range; uniform vec2 screen;
vec4 project(vec3 world) {
  vec3 p = (world - eye) * turn; // the columns of turn are the camera's axes, so this is turnᵀ · (world − eye)
  return vec4(lens.x * p.x + lens.z * p.z, -(lens.y * p.y + lens.w * p.z),
              ((range.y + range.x) * p.z - 2.0 * range.y * range.x) / (range.y - range.x), p.z);
}
`;
const POINTS = [`${CAMERA}
layout(location = 0) in vec3 position; layout(location = 1) in vec3 color;
uniform vec3 observer; uniform float footprint; uniform float facing; uniform bool far; out vec3 tint;
void main() { // a point covers what it covered of the observer's view
  gl_Position = project(position);
  if (far) gl_Position.z = gl_Position.w * 0.99999;
  if (dot(normalize(position - observer), normalize(position - eye)) < facing) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  float pixels = footprint * distance(position, observer) / max(gl_Position.w, 1e-6) * lens.y * screen.y * 0.5;
  gl_PointSize = clamp(pixels, 1.0, 48.0);
  tint = color;
}`, `#version 300 es
precision mediump float; in vec3 tint; out vec4 pixel;
void main() { vec2 d = gl_PointCoord - 0.5; if (dot(d, d) > 0.3) discard; pixel = vec4(tint, 1.0); }`];
const LINES = [`${CAMERA}
layout(location = 0) in vec3 from; layout(location = 1) in vec3 to; layout(location = 2) in vec3 color;
uniform float width; out vec3 tint;
void main() { // a quad of four vertices for each segment, cut at the near plane
  vec4 a = project(from), b = project(to);
  if (a.w < range.x && b.w < range.x) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  if (a.w < range.x) a = mix(a, b, (range.x - a.w) / (b.w - a.w));
  if (b.w < range.x) b = mix(b, a, (range.x - b.w) / (a.w - b.w));
  vec2 along = (b.xy / b.w - a.xy / a.w) * screen;
  vec2 across = length(along) > 0.0 ? normalize(vec2(-along.y, along.x)) : vec2(0.0);
  gl_Position = gl_VertexID < 2 ? a : b;
  gl_Position.xy += across * (gl_VertexID % 2 == 0 ? 1.0 : -1.0) * width / screen * gl_Position.w;
  tint = color;
}`, `#version 300 es
precision mediump float; in vec3 tint; uniform float alpha; out vec4 pixel;
void main() { pixel = vec4(tint, alpha); }`];
const PICTURES = [`${CAMERA}
layout(location = 0) in vec3 position; layout(location = 1) in vec2 texel; out vec2 at;
void main() { gl_Position = project(position); at = texel; }`, `#version 300 es
precision mediump float; in vec2 at; uniform sampler2D picture; out vec4 pixel;
void main() { pixel = vec4(texture(picture, at).rgb, 1.0); }`];

class Painter {
  constructor(canvas) {
    this.gl = canvas.getContext("webgl2", { antialias: true, alpha: false, powerPreference: "high-performance" });
    if (!this.gl) throw new Error("WebGL 2 is not available");
    this.points = this.program(POINTS);
    this.lines = this.program(LINES);
    this.pictures = this.program(PICTURES);
  }

  program(sources) {
    const gl = this.gl, program = gl.createProgram();
    [gl.VERTEX_SHADER, gl.FRAGMENT_SHADER].forEach((kind, i) => {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, sources[i]);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    });
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    const at = {};
    for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
      const { name } = gl.getActiveUniform(program, i);
      at[name] = gl.getUniformLocation(program, name);
    }
    return { program, at };
  }

  // One vertex array; each attribute is [data, numbers per vertex]; bytes become 0..1; divisor 1 for instances.
  vertices(attributes, divisor = 0) {
    const gl = this.gl, array = gl.createVertexArray();
    gl.bindVertexArray(array);
    attributes.forEach(([data, size], location) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(location);
      const bytes = data instanceof Uint8Array;
      gl.vertexAttribPointer(location, size, bytes ? gl.UNSIGNED_BYTE : gl.FLOAT, bytes, 0, 0);
      gl.vertexAttribDivisor(location, divisor);
    });
    return array;
  }

  texture(image) {
    const gl = this.gl, texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    return texture;
  }

  use({ program, at }, view, range) {
    const gl = this.gl, { width, height } = gl.canvas, [fx, fy, cx, cy] = view.lens;
    const scale = Math.min(width / view.aspect, height); // screen pixels of an image height: all of it is visible
    gl.useProgram(program);
    gl.uniformMatrix3fv(at.turn, false, axesOf(view.turn).flat());
    gl.uniform3fv(at.eye, view.eye);
    gl.uniform4f(at.lens, 2 * scale * fx / width, 2 * scale * fy / height,
      2 * scale * (cx - view.aspect / 2) / width, 2 * scale * (cy - 0.5) / height);
    gl.uniform2f(at.range, range[0], range[1]);
    gl.uniform2f(at.screen, width, height);
    return at;
  }
}
