// Pictures that are dropped, chosen or come with the library.

import { element } from "./figures.js";
import { post, Refused, sendPicture } from "./server.js";
import { calm, complain, following } from "./telling.js";

const $ = (id) => document.getElementById(id);

// most: bytes of a file.
export function intake({ samples, most, setPicture, setRight }) {
  const last = new Map(); // what was given last: a large picture may arrive after a small one that was given later
  const take = async (first, give, use) => {
    last.set(use, give);
    try {
      const told = await following(give, { first });
      if (last.get(use) !== give) return;
      calm();
      // Given once more where the server no longer keeps it.
      await use({ ...told, again: give });
    } catch (error) {
      if (last.get(use) === give) complain(error);
    }
  };
  const takeFile = (file, use) => file && take(`reading ${file.name} ...`, () => sendPicture(file, most), use);
  for (const [id, use] of [["file", setPicture], ["right-file", setRight]]) {
    $(id).addEventListener("change", (event) => {
      takeFile(event.target.files[0], use);
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
    const { files } = event.dataTransfer;
    if (files.length === 1) takeFile(files[0], setPicture);
    else if (files.length) complain(new Refused(`${files.length} files were dropped: one picture at a time, please`, 400));
    else complain(new Refused("no file was dropped: save the picture, then drop its file", 400));
  });
  $("samples").append(...samples.map((name) => {
    const button = element("button", { type: "button", className: "plain", textContent: name, title: "once more: another one" });
    let next = 0;
    button.addEventListener("click", () => {
      const index = next;
      next += 1;
      take("", () => post("api/samples", { name, index }), setPicture);
    });
    return button;
  }));
}
