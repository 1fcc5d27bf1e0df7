// One way to look through a series: as it was acquired, or cut from its volume. Nothing is interpolated.

const along = (affine, axis) => affine.slice(0, 3).map((row) => row[axis]);
const norm = (step) => Math.hypot(...step);
const unit = (step) => step.map((part) => part / (norm(step) || 1));

// Directions of a series whose place in the patient is not known: rows and columns, one unit to a pixel.
function nowhere({ pixel_mm: mm, aspect }) {
  const [tall, wide] = mm || [aspect, 1];
  return [[0, 0, wide, 0], [0, tall, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]];
}

export function acquired(series) {
  const [known] = series.about.planes;
  const whole = known || { name: "", across: { axis: 2, forwards: true }, down: { axis: 1, forwards: true }, through: { axis: 0, forwards: true } };
  return new Plane(series, 0, { ...whole, edges: series.about.edges });
}

export function cut(series) {
  return series.about.planes.slice(1).map((plane, i) => new Plane(series, i + 1, plane));
}

export class Plane {
  constructor(series, number, { name, across, down, through, edges }) {
    const { depth, height, width } = series.about;
    const affine = series.about.affine || nowhere(series.about);
    const shape = [depth, height, width];
    Object.assign(this, { series, number, name, across, down, through, edges, affine, shape });
    this.depth = shape[through.axis];
    this.height = shape[down.axis];
    this.width = shape[across.axis];
    this.rows = this.step(across);
    this.columns = this.step(down);
  }

  step({ axis, forwards }) {
    const step = along(this.affine, axis);
    return forwards ? step : step.map((part) => -part);
  }

  imageId(k) {
    return `secondread:${this.series.key}/${this.number}/${k}`;
  }

  index({ axis, forwards }, k) {
    return forwards ? k : this.shape[axis] - 1 - k;
  }

  // Where the first pixel of an image lies, and which way its rows and columns run; millimetres where they are known.
  place(k) {
    const at = [0, 0, 0];
    at[this.across.axis] = this.index(this.across, 0);
    at[this.down.axis] = this.index(this.down, 0);
    at[this.through.axis] = this.index(this.through, k);
    const origin = this.affine.slice(0, 3).map((row) => row[3] + at[0] * row[0] + at[1] * row[1] + at[2] * row[2]);
    return { origin, rows: unit(this.rows), columns: unit(this.columns), wide: norm(this.rows), tall: norm(this.columns) };
  }

  // The middle of an image in the patient's millimetres, or null where its place is not known.
  middle(k) {
    if (!this.series.about.affine) return null;
    const { origin } = this.place(k);
    return origin.map((from, i) => from + (this.rows[i] * (this.width - 1) + this.columns[i] * (this.height - 1)) / 2);
  }

  // The values of one image: of an acquired one as soon as it is there, of a cut one when all are.
  async values(k) {
    if (this.number === 0) return this.series.image(k);
    return this.cutFrom(await this.series.whole(), k);
  }

  cutFrom(images, k) {
    const made = new Uint16Array(this.width * this.height);
    const at = [0, 0, 0];
    at[this.through.axis] = this.index(this.through, k);
    let to = 0;
    for (let row = 0; row < this.height; row += 1) {
      at[this.down.axis] = this.index(this.down, row);
      for (let column = 0; column < this.width; column += 1) {
        at[this.across.axis] = this.index(this.across, column);
        made[to] = images[at[0]][at[1] * this.shape[2] + at[2]];
        to += 1;
      }
    }
    return made;
  }
}
