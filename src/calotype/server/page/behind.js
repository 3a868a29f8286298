// Jobs that left the stage for a later one and are not over: their pictures come into the history all the same.

import { Refused, get } from "./api.js";

const AT_ONCE = 4; // that are asked about: jobs end nearly in their order
const MILLISECONDS = 1000;

export class Behind {
  #left = new Set();
  #add;
  #tell;

  // `add` is given each picture and its job, `tell` is called whenever a job has come or gone.
  constructor(add, tell) {
    this.#add = add;
    this.#tell = tell;
  }

  get ids() {
    return [...this.#left];
  }

  follow(id) {
    this.#left.add(id);
    this.#tell();
    if (this.#left.size === 1) setTimeout(() => this.#look(), MILLISECONDS);
  }

  // It is on the stage again.
  drop(id) {
    this.#left.delete(id);
    this.#tell();
  }

  async #look() {
    for (const id of this.ids.slice(0, AT_ONCE)) {
      try {
        const job = await get(`/v1/jobs/${id}`);
        for (const data of job.pictures) await this.#add(data, job);
        if (job.position === null) this.drop(id);
      } catch (error) {
        if (error instanceof Refused && error.status === 404) this.drop(id); // deleted meanwhile
      }
    }
    if (this.#left.size) setTimeout(() => this.#look(), MILLISECONDS);
  }
}
