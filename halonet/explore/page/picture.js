// The canvas: the picture, the attention over it, frames and the query.

const LEAST_HEIGHT = 260;
const QUERY = "#00c2b2";
const FRAME = "#3d9bff";

export class Picture {
  constructor(canvas, frame, glow) {
    this.canvas = canvas;
    this.frame = frame;
    this.context = canvas.getContext("2d");
    this.colours = tableOf(glow.colours, false);
    this.signedColours = tableOf(glow.colours, true);
    this.brightness = glow.brightness;
    this.view = null; // what the model reads, as the server drew it
    this.dark = null; // the same grey and dark, below attention
    this.answer = null; // objects or a disparity, drawn by the server
    this.size = [1, 1];
    this.show = "attention";
    this.reply = null;
    this.query = null;
    this.pinned = false;
    new ResizeObserver(() => this.fit()).observe(frame);
    addEventListener("resize", () => this.fit());
  }

  // size: [height, width] of the view; scale: pixels of what the model reads to one of the view, down and across.
  setView(bitmap, size, scale) {
    Object.assign(this, { view: bitmap, size, scale, reply: null, answer: null });
    this.dark = darkened(bitmap, this.brightness);
    this.fit();
  }

  fit() {
    if (!this.view) return;
    const [height, width] = this.size;
    const room = [Math.max(LEAST_HEIGHT, innerHeight - 262), this.frame.clientWidth];
    const factor = Math.min(room[0] / height, room[1] / width);
    this.canvas.style.height = `${Math.max(1, Math.round(factor * height))}px`;
    this.canvas.style.width = `${Math.max(1, Math.round(factor * width))}px`;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.factor = factor * ratio;
    this.canvas.height = Math.max(1, Math.round(this.factor * height));
    this.canvas.width = Math.max(1, Math.round(this.factor * width));
    this.draw();
  }

  // [row, column] of the view under a pointer.
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const shares = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    return shares.map((share, axis) => clamp(Math.floor(share * this.size[axis]), 0, this.size[axis] - 1));
  }

  draw() {
    if (!this.view) return;
    const { context } = this;
    const over = this.show === "attention" && this.reply;
    const below = over ? this.dark : this.show === "answer" && this.answer ? this.answer : this.view;
    context.drawImage(this.fitted(below), 0, 0);
    if (!over) return;
    context.imageSmoothingEnabled = false;
    this.drawHeat();
    if (this.reply.frames) {
      this.drawFrame(this.reply.frames.seen, true);
      this.drawFrame(this.reply.frames.block, false);
    }
    this.drawQuery();
  }

  // What lies below, at the canvas's size: scaled once, not with every move.
  fitted(source) {
    const { width, height } = this.canvas;
    if (this.below?.source !== source || this.below.canvas.width !== width || this.below.canvas.height !== height) {
      const canvas = canvasOf(width, height);
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = this.factor < 3 || source === this.answer;
      context.imageSmoothingQuality = "high";
      context.drawImage(source, 0, 0, width, height);
      this.below = { source, canvas };
    }
    return this.below.canvas;
  }

  drawHeat() {
    const { box, map, extent, values, signed } = this.reply;
    const [top, left, height, width] = box;
    if (!height) return;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const colours = signed ? this.signedColours : this.colours;
    for (let place = 0; place < values.length; place += 1) pixels[place] = colours[values[place]];
    const heat = canvasOf(width, height);
    heat.getContext("2d").putImageData(image, 0, 0);
    const [down, across] = [0, 1].map((axis) => (extent[axis] / map[axis] / this.scale[axis]) * this.factor);
    this.context.drawImage(heat, left * across, top * down, width * across, height * down);
  }

  drawFrame([[top, left], [bottom, right]], dashed) {
    const { context, canvas } = this;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const line = 2 * ratio;
    const [down, across] = this.scale.map((scale) => this.factor / scale);
    // What reaches the picture's border is drawn just inside of it.
    const x = [left, right].map((side) => clamp(side * across, line / 2, canvas.width - line / 2));
    const y = [top, bottom].map((side) => clamp(side * down, line / 2, canvas.height - line / 2));
    context.lineWidth = line;
    context.strokeStyle = FRAME;
    context.setLineDash(dashed ? [6 * ratio, 5 * ratio] : []);
    context.strokeRect(x[0], y[0], x[1] - x[0], y[1] - y[0]);
    context.setLineDash([]);
  }

  drawQuery() {
    if (!this.query) return;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const [y, x] = this.query.map((at) => (at + 0.5) * this.factor);
    const { context } = this;
    context.beginPath();
    context.arc(x, y, 5.5 * ratio, 0, 2 * Math.PI);
    context.fillStyle = QUERY;
    context.fill();
    context.lineWidth = 2 * ratio;
    context.strokeStyle = "#fff";
    context.stroke();
    if (!this.pinned) return;
    context.beginPath();
    context.arc(x, y, 9.5 * ratio, 0, 2 * Math.PI);
    context.stroke();
  }
}

export const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// Grey and dark, so that the glow is the only colour.
function darkened(bitmap, brightness) {
  const canvas = canvasOf(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = image;
  for (let place = 0; place < data.length; place += 4) {
    const grey = (brightness * (data[place] + data[place + 1] + data[place + 2])) / 3;
    data[place] = data[place + 1] = data[place + 2] = grey;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// 256 colours as a canvas holds them; of signed weights byte 128 is 0, and what is below it glows blue.
function tableOf(stops, signed) {
  const colours = new Uint8ClampedArray(4 * 256);
  for (let byte = 0; byte < 256; byte += 1) {
    const value = signed ? (byte - 128) / 127 : byte / 255;
    const colour = between(stops, Math.min(1, Math.abs(value)));
    const channels = value < 0 ? [colour[2], colour[1], colour[0], colour[3]] : colour;
    channels.forEach((channel, number) => { colours[4 * byte + number] = 255 * channel; });
  }
  return new Uint32Array(colours.buffer);
}

export function between(stops, share) {
  const place = share * (stops.length - 1);
  const first = Math.min(Math.floor(place), stops.length - 2);
  return stops[first].map((channel, number) => channel + (place - first) * (stops[first + 1][number] - channel));
}
