// Draws every <figure class="scene"> of the page and lets people move in it. Nothing is fetched: the data is inside.

const EASE_MS = 600, FLY_MS_PER_FRAME = 160, PICK_PIXELS = 28, MAX_PITCH = 1.5, FRUSTUM = 0.07;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

class SceneView {
  constructor(figure) {
    this.figure = figure;
    this.canvas = this.find("canvas");
    const scene = JSON.parse(this.find("script[type='application/json']").textContent);
    Object.assign(this, { scene, paths: scene.paths.map(unpackPath) });
    this.points = { cloud: unpackPoints(scene.points.cloud), sky: unpackPoints(scene.points.sky) };
    this.show = { cloud: true, sky: true, cameras: true, pictures: true, cutaway: false };
    this.east = cross(scene.north, scene.up);
    this.pointScale = 1;
    this.chosen = Math.min(1, this.paths.length - 1); // path 0 is the input
    this.frame = 0;
    this.standing = false; // at a camera of the chosen path, else orbiting
    this.load();
    this.orbit = this.overview();
    this.view = this.orbitView();
    this.connect();
    this.choose(this.chosen);
  }

  find(selector) { return this.figure.querySelector(selector); }

  // ---------------------------------------------------------------- data on the graphics card
  load() {
    const painter = this.painter = new Painter(this.canvas);
    for (const part of Object.values(this.points)) {
      part.array = painter.vertices([[part.positions, 3], [part.colors, 3]]);
      part.reach = 0;
      for (let i = 0; i < part.positions.length; i++) part.reach = Math.max(part.reach, Math.abs(part.positions[i]));
    }
    this.reach = 2 * Math.max(this.points.cloud.reach, this.points.sky.reach) + 4 * this.scene.radius;
    this.paths.forEach((path, index) => this.loadPath(path, index === 0 ? 1.5 : 1));
    this.recolor();
  }

  loadPath(path, scale) {
    const size = FRUSTUM * this.scene.radius * scale, segments = [], positions = [], texels = [];
    for (let i = 0; i + 1 < path.views.length; i++) segments.push(path.views[i].eye, path.views[i + 1].eye);
    path.frusta.forEach((frame, place) => {
      const view = path.views[frame], c = cornersOf(view, size), n = path.frusta.length;
      c.forEach((corner, i) => segments.push(view.eye, corner, corner, c[(i + 1) % 4]));
      const top = add(mix(c[0], c[1], 0.5), axesOf(view.turn)[1], -0.3 * size); // a roof shows which way is up
      segments.push(mix(c[0], c[1], 0.35), top, top, mix(c[0], c[1], 0.65));
      for (const i of [0, 1, 2, 0, 2, 3]) {
        positions.push(...c[i]);
        texels.push((place + [0, 1, 1, 0][i]) / n, [0, 0, 1, 1][i]);
      }
    });
    path.segments = segments;
    if (!path.atlas) return;
    path.pictures = this.painter.vertices([[new Float32Array(positions), 3], [new Float32Array(texels), 2]]);
    const image = new Image();
    image.onload = () => { path.texture = this.painter.texture(image); this.draw(); };
    image.src = path.atlas;
  }

  recolor() { // line colours follow the page's light or dark scheme
    const style = getComputedStyle(this.figure), rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    this.background = rgb(style.getPropertyValue("--stage").trim());
    const ink = rgb(style.getPropertyValue("--stage-ink").trim());
    for (const path of this.paths) {
      const color = path.color ? rgb(path.color) : ink, count = path.segments.length / 2;
      const ends = [0, 1].map((end) => new Float32Array(path.segments.filter((_, i) => i % 2 === end).flat()));
      const colors = new Uint8Array(3 * count).map((_, i) => color[i % 3]);
      path.lines = this.painter.vertices([[ends[0], 3], [ends[1], 3], [colors, 3]], 1);
    }
    this.draw();
  }

  // ---------------------------------------------------------------- where the eye is
  overview() {
    const { eye, pivot } = this.scene.overview, ahead = add(pivot, eye, -1);
    return { pivot, distance: length(ahead), ...this.angles(unit(ahead)) };
  }

  angles(forward) {
    const { up, north } = this.scene;
    return { yaw: Math.atan2(dot(forward, this.east), dot(forward, north)), pitch: -Math.asin(clamp(dot(forward, up), -1, 1)) };
  }

  orbitView() {
    const { pivot, distance, yaw, pitch } = this.orbit, { up, north, overview } = this.scene;
    const level = add(north.map((v) => v * Math.cos(yaw)), this.east, Math.sin(yaw));
    const forward = add(level.map((v) => v * Math.cos(pitch)), up, -Math.sin(pitch));
    const right = unit(cross(forward, up)), down = cross(forward, right);
    const focal = 0.5 / Math.tan(overview.fov * Math.PI / 360);
    return {
      eye: add(pivot, forward, -distance), lens: [focal, focal, overview.aspect / 2, 0.5], aspect: overview.aspect,
      turn: quaternionOf([0, 1, 2].flatMap((i) => [right[i], down[i], forward[i]])),
    };
  }

  standingView() {
    const { views } = this.paths[this.chosen], i = Math.min(Math.floor(this.frame), views.length - 1);
    return i + 1 < views.length ? blend(views[i], views[i + 1], this.frame - i) : views[i];
  }

  target() { return this.standing ? this.standingView() : this.orbitView(); }

  moveTo(change) { // change the state, then glide to the view it means
    const from = this.view;
    change();
    this.glide = calm.matches ? null : { from, start: performance.now() };
    this.refresh();
  }

  leaveCamera() { // keep looking where the camera looks, now free to turn
    this.playing = null;
    if (this.standing) {
      const forward = axesOf(this.view.turn)[2], eye = this.view.eye;
      const distance = Math.max(0.3 * this.scene.radius, dot(add(this.scene.pivot, eye, -1), forward));
      this.orbit = { pivot: add(eye, forward, distance), distance, ...this.angles(forward) };
      this.orbit.pitch = clamp(this.orbit.pitch, -MAX_PITCH, MAX_PITCH);
      const from = this.view;
      this.standing = false;
      this.glide = calm.matches ? null : { from, start: performance.now() };
    }
    this.refresh();
  }

  stand(index, frame) {
    this.moveTo(() => { this.choose(index); this.frame = frame; this.standing = true; this.playing = null; });
  }

  choose(index) {
    this.chosen = index;
    this.frame = clamp(this.frame, 0, this.paths[index].views.length - 1);
    this.refresh();
  }

  play() {
    if (this.paths[this.chosen].views.length < 2) return;
    if (this.playing) { this.playing = null; this.refresh(); return; }
    const last = this.paths[this.chosen].views.length - 1;
    const from = this.frame >= last ? 0 : this.frame;
    if (!this.standing || from !== this.frame) this.stand(this.chosen, from);
    this.playing = { from, start: performance.now() + (this.glide ? EASE_MS : 0) };
    this.refresh();
  }

  turn(dx, dy) { // in radians
    this.leaveCamera();
    this.orbit.yaw -= dx;
    this.orbit.pitch = clamp(this.orbit.pitch + dy, -MAX_PITCH, MAX_PITCH);
    this.draw();
  }

  pan(dx, dy) { // in heights of the view
    this.leaveCamera();
    const [right, down] = axesOf(this.orbitView().turn), scale = this.orbit.distance;
    this.orbit.pivot = add(add(this.orbit.pivot, right, -dx * scale), down, -dy * scale);
    this.draw();
  }

  zoom(factor) {
    this.leaveCamera();
    this.orbit.distance = clamp(this.orbit.distance * factor, 0.01 * this.scene.radius, 20 * this.scene.radius);
    this.draw();
  }

  // ---------------------------------------------------------------- drawing
  draw() {
    if (!this.pending) this.pending = requestAnimationFrame((now) => { this.pending = 0; this.paint(now); });
  }

  advance(now) { // one step of playing and gliding
    if (this.playing) {
      const last = this.paths[this.chosen].views.length - 1;
      this.frame = clamp(this.playing.from + Math.max(0, now - this.playing.start) / FLY_MS_PER_FRAME, 0, last);
      if (this.frame >= last) this.playing = null;
      this.refresh();
    }
    const t = this.glide ? clamp((now - this.glide.start) / EASE_MS, 0, 1) : 1;
    this.view = t < 1 ? blend(this.glide.from, this.target(), t * t * (3 - 2 * t)) : this.target();
    if (t < 1) this.draw(); else this.glide = null;
  }

  paint(now) {
    const { painter, canvas } = this, { gl } = painter, { radius } = this.scene;
    if (gl.isContextLost() || !canvas.width) return;
    this.advance(now);
    const range = [0.002 * radius, this.reach + 2 * length(add(this.view.eye, this.scene.pivot, -1))];
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(...this.background.map((v) => v / 255), 1);
    gl.depthMask(true);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    let drawn = 0;
    for (const kind of ["cloud", "sky"]) drawn += this.show[kind] ? this.paintPoints(kind, range) : 0;
    if (this.camerasShown()) this.paintCameras(range);
    this.figure.dataset.pointsDrawn = drawn;
    this.figure.dataset.framesPainted = Number(this.figure.dataset.framesPainted || 0) + 1;
    this.placeGate();
  }

  paintPoints(kind, range) {
    const { gl } = this.painter, part = this.points[kind];
    const at = this.painter.use(this.painter.points, this.view, range);
    gl.uniform3fv(at.observer, this.scene.observer);
    gl.uniform1f(at.footprint, (kind === "sky" ? 3 : 1.9) * part.footprint * this.pointScale);
    gl.uniform1f(at.facing, this.show.cutaway ? this.scene.facing : -2);
    gl.uniform1i(at.far, kind === "sky" ? 1 : 0);
    gl.bindVertexArray(part.array);
    gl.drawArrays(gl.POINTS, 0, part.count);
    return part.count;
  }

  paintCameras(range) {
    const { gl } = this.painter;
    const shown = this.paths.filter((path) => path.visible);
    this.painter.use(this.painter.pictures, this.view, range);
    for (const path of shown) {
      if (!this.show.pictures || !path.texture) continue;
      gl.bindTexture(gl.TEXTURE_2D, path.texture);
      gl.bindVertexArray(path.pictures);
      gl.drawArrays(gl.TRIANGLES, 0, 6 * path.frusta.length);
    }
    const at = this.painter.use(this.painter.lines, this.view, range);
    gl.uniform1f(at.width, 1.6 * devicePixelRatio);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.depthMask(false);
    for (const [compare, alpha] of [[gl.GREATER, 0.25], [gl.LEQUAL, 1]]) { // hidden parts faintly
      gl.depthFunc(compare);
      gl.uniform1f(at.alpha, alpha);
      for (const path of shown) {
        gl.bindVertexArray(path.lines);
        gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, path.segments.length / 2);
      }
    }
    gl.depthFunc(gl.LESS);
    gl.disable(gl.BLEND);
  }

  camerasShown() { return this.show.cameras && !this.standing; } // from a camera one sees the scene alone

  placeGate() { // the frame of the camera that one stands at
    const gate = this.find(".scene-gate"), { clientWidth: width, clientHeight: height } = this.canvas;
    gate.hidden = !this.standing || this.glide !== null;
    const high = Math.min(width / this.view.aspect, height), wide = high * this.view.aspect;
    Object.assign(gate.style, {
      width: `${wide}px`, height: `${high}px`, left: `${(width - wide) / 2}px`, top: `${(height - high) / 2}px`,
      borderColor: this.paths[this.chosen].color || "currentColor",
    });
  }

  refresh() { // the controls say what the state is
    const path = this.paths[this.chosen], count = path.views.length, slider = this.find("[data-action=frame]");
    slider.max = count - 1;
    slider.value = this.frame;
    slider.disabled = count < 2;
    const play = this.find("[data-action=play]");
    play.disabled = count < 2;
    play.firstElementChild.textContent = this.playing ? "❚❚" : "▶";
    play.setAttribute("aria-label", `${this.playing ? "Pause" : "Play"} ${path.name}`);
    const place = count > 1 ? `${path.name} · frame ${Math.round(this.frame) + 1} of ${count}` : path.name;
    this.find("output").textContent = place;
    this.find(".scene-status").textContent = this.standing && !this.playing ? `Standing at ${place}` : "";
    this.figure.style.setProperty("--chosen", path.color || "var(--ink)");
    this.draw();
  }

  // ---------------------------------------------------------------- people
  connect() {
    const { canvas, figure } = this;
    new ResizeObserver(() => {
      canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
      canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
      this.paint(performance.now());
    }).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.recolor());
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.load());
    this.connectPointers();
    canvas.addEventListener("wheel", (event) => {
      const scrolls = document.documentElement.scrollHeight > innerHeight + 1;
      if (scrolls && document.activeElement !== canvas && !event.ctrlKey) return; // let the page scroll
      event.preventDefault();
      this.zoom(Math.exp(clamp(event.deltaY, -240, 240) * 0.0015));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => this.pick(event.offsetX, event.offsetY));
    canvas.addEventListener("keydown", (event) => this.key(event));
    figure.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.action === "overview") this.goHome();
      if (button?.dataset.action === "play") this.play();
      if (button?.dataset.action === "fly") this.fly(Number(button.dataset.path));
    });
    figure.addEventListener("input", (event) => {
      const { dataset, checked, value } = event.target;
      if (dataset.action === "frame") { this.stand(this.chosen, Number(value)); this.glide = null; }
      if (dataset.action === "size") this.pointScale = 2 ** Number(value);
      if (dataset.show) this.show[dataset.show] = checked;
      if (dataset.path) this.paths[dataset.path].visible = checked;
      this.draw();
    });
    for (const box of figure.querySelectorAll("[data-show]")) this.show[box.dataset.show] = box.checked;
  }

  goHome() { this.moveTo(() => { this.orbit = this.overview(); this.standing = false; this.playing = null; }); }

  fly(index) {
    this.stand(index, 0);
    if (index > 0) this.play();
  }

  connectPointers() {
    const { canvas } = this, down = new Map();
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      down.set(event.pointerId, [event.offsetX, event.offsetY]);
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => down.delete(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      const before = down.get(event.pointerId), now = [event.offsetX, event.offsetY], high = canvas.clientHeight;
      if (!before || (before[0] === now[0] && before[1] === now[1])) return;
      const dx = (now[0] - before[0]) / high, dy = (now[1] - before[1]) / high;
      down.set(event.pointerId, now);
      if (down.size === 2) {
        const [other] = [...down].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
        const apart = (at) => Math.max(1, Math.hypot(at[0] - other[0], at[1] - other[1]));
        this.pan(dx / 2, dy / 2); // each of the two fingers moves half of it
        this.zoom(apart(before) / apart(now));
      } else if (event.buttons & 6 || event.shiftKey) this.pan(dx, dy);
      else this.turn(3 * dx, 3 * dy);
    });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 0.05 : 0.08, move = event.shiftKey ? (x, y) => this.pan(x, y) : (x, y) => this.turn(x, y);
    const jump = (by) => this.stand(this.chosen, clamp(Math.round(this.frame) + by, 0, this.paths[this.chosen].views.length - 1));
    const actions = {
      ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0),
      ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
      "+": () => this.zoom(0.9), "=": () => this.zoom(0.9), "-": () => this.zoom(1.1), _: () => this.zoom(1.1),
      0: () => this.goHome(), " ": () => this.play(), ",": () => jump(-1), ".": () => jump(1),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  pick(x, y) { // a camera near the pointer to stand at, else the nearest point to turn about
    const { clientWidth: width, clientHeight: height } = this.canvas, axes = axesOf(this.view.turn);
    const scale = Math.min(width / this.view.aspect, height), [fx, fy, cx, cy] = this.view.lens;
    const miss = (world) => { // [pixels from the pointer, depth]
      const offset = add(world, this.view.eye, -1), [u, v, depth] = axes.map((axis) => dot(axis, offset));
      if (depth <= 0) return [Infinity, 0];
      return [Math.hypot((fx * u / depth + cx - this.view.aspect / 2) * scale + width / 2 - x,
        (fy * v / depth + cy - 0.5) * scale + height / 2 - y), depth];
    };
    let best = { pixels: PICK_PIXELS };
    this.paths.forEach((path, index) => path.visible && this.camerasShown() && path.frusta.forEach((frame) => {
      const c = cornersOf(path.views[frame], FRUSTUM * this.scene.radius);
      const pixels = Math.min(miss(path.views[frame].eye)[0], miss(mix(c[0], c[2], 0.5))[0]);
      if (pixels < best.pixels) best = { pixels, index, frame };
    }));
    if (best.index !== undefined) { this.stand(best.index, best.frame); return; }
    const { positions } = this.points.cloud;
    let nearest = null;
    for (let i = 0; i < positions.length; i += 3) {
      const world = [positions[i], positions[i + 1], positions[i + 2]], [pixels, depth] = miss(world);
      if (pixels < 6 && (!nearest || depth < nearest.depth)) nearest = { world, depth };
    }
    if (!nearest) return;
    this.leaveCamera();
    this.moveTo(() => { this.orbit.pivot = nearest.world; });
  }
}

for (const figure of document.querySelectorAll("figure.scene")) {
  const find = (selector) => figure.querySelector(selector), still = find(".scene-still");
  find("canvas").hidden = find(".scene-bar").hidden = false;
  try {
    figure.view = new SceneView(figure);
    still.hidden = true;
  } catch (error) {
    find("canvas").hidden = find(".scene-bar").hidden = true;
    find(".scene-message").hidden = false;
    find(".scene-message").textContent = `The 3D view cannot be shown here (${error.message}); this is a still picture of it.`;
  }
}
for (const button of document.querySelectorAll("button[data-fly]")) { // beside a clip, elsewhere on the page
  button.addEventListener("click", () => {
    const figure = document.querySelector("figure.scene");
    figure.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
    figure.view?.fly(Number(button.dataset.fly));
  });
}
