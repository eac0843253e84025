// Pictures that are dropped, chosen or come with the library.

import { element } from "./figures.js";
import { post, sendPicture } from "./server.js";

const $ = (id) => document.getElementById(id);

export function intake({ samples, setPicture, setRight, complain, calm }) {
  const take = async (file, use) => {
    if (!file) return;
    try {
      const told = await sendPicture(file);
      calm();
      await use(told);
    } catch (error) {
      complain(error);
    }
  };
  for (const [id, use] of [["file", setPicture], ["right-file", setRight]]) {
    $(id).addEventListener("change", (event) => {
      take(event.target.files[0], use);
      event.target.value = ""; // the same file may be chosen once more
    });
  }
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    take(event.dataTransfer.files[0], setPicture);
  });
  $("samples").append(...samples.map((name) => {
    const button = element("button", { type: "button", className: "plain", textContent: name, title: "once more: another one" });
    let index = 0;
    button.addEventListener("click", async () => {
      try {
        const told = await post("api/samples", { name, index });
        index += 1;
        calm();
        await setPicture(told, told.right === null ? null : { id: told.right });
      } catch (error) {
        complain(error);
      }
    });
    return button;
  }));
}
