// JupyterLab's launcher, its command palette and its workspace "workbench" open the workbench: a notebook that shows it.
//
// Why by hand: a prebuilt extension is a module-federation container, an object with `init` and `get`. This one needs no
// module of its own, so it needs no bundler either; JupyterLab's modules come from the scope that it shares.
// A notebook that is there already is run only when it is exactly what stands here: an address must not run anything else.
(() => {
  const COMMAND = "modal-workbench:open";
  const PATH = "workbench.ipynb";
  const SOURCE = "%load_ext workbench\n%workbench";
  const asked = /\/lab\/workspaces\/workbench(\/|$)/.test(window.location.pathname);
  const NOTEBOOK = {
    cells: [{ cell_type: "code", id: "workbench", execution_count: null, metadata: {}, outputs: [], source: SOURCE }],
    metadata: { kernelspec: { name: "python3", display_name: "Python 3 (ipykernel)", language: "python" } },
    nbformat: 4,
    nbformat_minor: 5,
  };
  const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161"
    d="M4 4h16a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zm1 5v9h14V9zm2 2 4 2.5L7 16zm5 3.5h5V16h-5z" fill-rule="evenodd"/></svg>`;
  let scope = {};

  const shared = async (name) => {
    const versions = scope[name];
    if (!versions) throw new Error(`JupyterLab does not share ${name}`);
    return (await Object.values(versions)[0].get())();
  };

  async function open(app, directory) {
    const path = directory ? `${directory}/${PATH}` : PATH;
    const { contents, sessions } = app.serviceManager;
    const { content: entries } = await contents.get(directory);
    if (!entries.some((entry) => entry.name === PATH)) {
      await contents.save(path, { type: "notebook", format: "json", content: NOTEBOOK });
    }
    await sessions.refreshRunning();
    const live = [...sessions.running()].some((session) => session.path === path);
    const panel = await app.commands.execute("docmanager:open", { path, factory: "Notebook" });
    await panel.context.ready;
    await panel.sessionContext.ready;
    const code = panel.content.model.toJSON().cells.filter((cell) => cell.cell_type === "code");
    const ours = code.length === 1 && [code[0].source].flat().join("") === SOURCE;
    const there = live && code[0]?.outputs.length > 0; // a page that was reloaded: the panel is still alive
    app.shell.activateById(panel.id);
    if (ours && !there) await app.commands.execute("notebook:run-all-cells");
    return panel;
  }

  async function plugins() {
    const [{ ILauncher }, { ICommandPalette }, { LabIcon }] = await Promise.all(
      ["@jupyterlab/launcher", "@jupyterlab/apputils", "@jupyterlab/ui-components"].map(shared),
    );
    const activate = (app, launcher, palette) => {
      app.commands.addCommand(COMMAND, {
        label: "Modal workbench",
        caption: "Deploy, launch, watch, inspect and replay jobs",
        icon: new LabIcon({ name: "modal-workbench:icon", svgstr: ICON }),
        execute: (args) => open(app, args.cwd ?? ""),
      });
      launcher?.add({ command: COMMAND, category: "Other", rank: 0 });
      palette?.addItem({ command: COMMAND, category: "Modal" });
      if (asked) app.restored.then(() => app.commands.execute(COMMAND));
    };
    return [{ id: "modal-workbench:plugin", autoStart: true, optional: [ILauncher, ICommandPalette], activate }];
  }

  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB["modal-workbench"] = {
    init: (given) => {
      scope = given;
    },
    get: async (name) => {
      if (name !== "./extension") throw new Error(`there is no ${name} in modal-workbench`);
      // JupyterLab must start without us when it is another one than we know.
      const found = await plugins().catch((error) => {
        console.warn(`modal-workbench is not available: ${error.message}`);
        return [];
      });
      return () => ({ __esModule: true, default: found });
    },
  };
})();
