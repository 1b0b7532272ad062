"use strict";
// The form with which a visitor asks the server for another pair or setting.

class ServerForm {
  constructor(wish, say) {
    this.form = element("request");
    this.wish = wish;
    this.say = say;
    if (!this.form) return;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.form.addEventListener("change", () => this.show());
    this.show();
  }

  // Hide what does not matter for the choices made.
  show() {
    const { elements } = this.form;
    element("uploads").hidden = elements.images.value !== "uploads";
    element("second_setting").hidden = !elements.compare.checked;
  }

  // Set the fields to what the server has matched.
  fill(values) {
    if (!this.form || !values) return;
    for (const [name, value] of Object.entries(values)) {
      const field = this.form.elements[name];
      if (!field) continue;
      if (field.type === "checkbox") field.checked = value;
      else {
        // What an address asks for need not be among the choices.
        if (field.options && ![...field.options].some((option) => option.value === String(value))) field.add(new Option(value, value));
        if (field.options || field instanceof RadioNodeList) field.value = value;
      }
    }
    this.show();
  }

  async send() {
    const { elements } = this.form;
    const wish = Object.fromEntries(new FormData(this.form));
    wish.compare = elements.compare.checked;
    const files = {};
    try {
      for (const image of ["a", "b"]) {
        const file = elements[`file_${image}`].files[0];
        delete wish[`file_${image}`];
        if (wish.images === "uploads" && file) files[image] = await this.read(file, image.toUpperCase());
      }
    } catch (error) {
      return this.say(error.message, true);
    }
    this.say("Looking for keypoints, and matching them …");
    const name = (image) => elements[`file_${image}`].files[0]?.name ?? "";
    wish.names = [name("a"), name("b")];
    // The time makes each request a new one, even if nothing else has changed.
    this.wish.data = { wish: [JSON.stringify({ ...wish, time: Date.now() })], a: [files.a ?? ""], b: [files.b ?? ""] };
  }

  // A file in base64. Too large a one is refused here, before it would break the connection.
  read(file, name) {
    const most = Number(this.form.dataset.maxBytes);
    if (file.size > most) {
      const size = (bytes) => `${+(bytes / 2 ** 20).toPrecision(3)} MiB`;
      throw new Error(`Image ${name} is too large: ${size(file.size)}, at most ${size(most)} are read.`);
    }
    return new Promise((done, failed) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result.split(",", 2)[1] ?? "");
      reader.onerror = () => failed(new Error(`Image ${name} cannot be read.`));
      reader.readAsDataURL(file);
    });
  }
}
