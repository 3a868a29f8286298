// Painting on a picture what is to be drawn anew: with mouse, finger or pen, or with the keys.

export class Mask {
  // `changed` is called whenever there is something else to send.
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.picture = null;
    this.strokes = []; // each {size, points: [[x, y], …]} in the picture's pixels
    this.cursor = null; // where the keys are
    this.brush = 24;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.painting = false));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#place(null));
  }

  show(picture) {
    this.picture = picture;
    this.strokes = [];
    this.cursor = null;
    this.canvas.width = picture?.width ?? 1;
    this.canvas.height = picture?.height ?? 1;
    this.#draw();
  }

  undo() {
    this.strokes.pop();
    this.#draw();
  }

  clear() {
    this.strokes = [];
    this.#draw();
  }

  get empty() {
    return this.strokes.length === 0;
  }

  // White where it was painted, as the server takes it.
  async blob() {
    const { width, height } = this.canvas;
    const sheet = new OffscreenCanvas(width, height);
    const pen = sheet.getContext("2d");
    pen.fillStyle = "black";
    pen.fillRect(0, 0, width, height);
    this.#strokes(pen, "white");
    return sheet.convertToBlob({ type: "image/png" });
  }

  // The brush is told in hundredths of the longer side.
  get #size() {
    return (this.brush / 100) * Math.max(this.canvas.width, this.canvas.height);
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.canvas.width,
      ((event.clientY - box.top) / box.height) * this.canvas.height,
    ];
  }

  #down(event) {
    if (!this.picture || event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.painting = true;
    this.#begin(this.#at(event));
  }

  #move(event) {
    if (!this.painting) return;
    this.strokes.at(-1).points.push(this.#at(event));
    this.#draw();
  }

  #begin(point) {
    this.strokes.push({ size: this.#size, points: [point] });
    this.#draw();
  }

  #key(event) {
    if (!this.picture) return;
    const { width, height } = this.canvas;
    const [x, y] = this.cursor ?? [width / 2, height / 2];
    const step = this.#size / 2;
    const moved = {
      ArrowLeft: [x - step, y], ArrowRight: [x + step, y], ArrowUp: [x, y - step], ArrowDown: [x, y + step],
    }[event.key];
    if (moved) {
      this.#place([Math.min(width, Math.max(0, moved[0])), Math.min(height, Math.max(0, moved[1]))]);
    } else if (event.key === " ") {
      this.cursor = [x, y];
      this.#begin([x, y]);
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      this.undo();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.clear();
    } else {
      return;
    }
    event.preventDefault();
  }

  #place(point) {
    this.cursor = point;
    this.#draw();
  }

  #draw() {
    const pen = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    pen.clearRect(0, 0, width, height);
    if (this.picture) pen.drawImage(this.picture, 0, 0);
    if (!this.empty) {
      // on a sheet of their own, so that strokes that cross are no darker
      const sheet = new OffscreenCanvas(width, height);
      this.#strokes(sheet.getContext("2d"), "rgb(200 40 120)");
      pen.globalAlpha = 0.55;
      pen.drawImage(sheet, 0, 0);
      pen.globalAlpha = 1;
    }
    if (this.cursor) {
      for (const [colour, more] of [["black", 0], ["white", 2]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = Math.max(1, width / 200);
        pen.beginPath();
        pen.arc(...this.cursor, Math.max(1, this.#size / 2 - more * pen.lineWidth), 0, 2 * Math.PI);
        pen.stroke();
      }
    }
    this.changed();
  }

  #strokes(pen, colour) {
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineCap = pen.lineJoin = "round";
    for (const { size, points } of this.strokes) {
      pen.lineWidth = size;
      pen.beginPath();
      pen.arc(...points[0], size / 2, 0, 2 * Math.PI); // a line of one point is none
      pen.fill();
      pen.beginPath();
      pen.moveTo(...points[0]);
      for (const point of points) pen.lineTo(...point);
      pen.stroke();
    }
  }
}
