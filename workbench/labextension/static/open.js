// The workbench as a page of JupyterLab's own: in the main area or a side bar, beside any notebook, with its own kernel.
//
// Why by hand: a prebuilt extension is a module-federation container, an object with `init` and `get`. This one needs no
// module of its own, so it needs no bundler either; JupyterLab's modules come from the scope that it shares.
// The kernel runs the code below and nothing that is kept in a file: an address must not run anything else.
(() => {
  const COMMAND = "modal-workbench:open";
  const BESIDE = "modal-workbench:open-beside";
  const AGAIN = "modal-workbench:restart";
  const ELSEWHERE = "modal-workbench:connect";
  const ID = "modal-workbench";
  const SHOWN = `import workbench
wb_panel = globals().get("wb_panel") or workbench.open()
wb_panel`;
  const asked = /\/lab\/workspaces\/workbench(\/|$)/.test(window.location.pathname);
  const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161"
    d="M4 4h16a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zm1 5v9h14V9zm2 2 4 2.5L7 16zm5 3.5h5V16h-5z" fill-rule="evenodd"/></svg>`;
  let scope = {};

  const shared = async (name) => {
    const versions = scope[name];
    if (!versions) throw new Error(`JupyterLab does not share ${name}`);
    return (await Object.values(versions)[0].get())();
  };

  // The code that shows another target instead: words as `%workbench` takes them, "modal my-app".
  const connected = (words) => {
    const [target = "local", name] = words.trim().split(/\s+/).filter(Boolean);
    const given = JSON.stringify(target) + (name ? `, app_name=${JSON.stringify(name)}` : "");
    return `import workbench
_before = globals().get("wb_panel")
wb_panel = workbench.open(${given})
if _before is not None: _before.close()
wb_panel`;
  };

  async function plugins() {
    const [{ ILauncher }, { ICommandPalette, InputDialog, MainAreaWidget, SessionContext }, { LabIcon, ToolbarButton },
      { ILayoutRestorer }, { IRenderMimeRegistry }, { OutputAreaModel, SimplifiedOutputArea }, { Signal }, widgets] = await Promise.all(
      ["@jupyterlab/launcher", "@jupyterlab/apputils", "@jupyterlab/ui-components", "@jupyterlab/application",
        "@jupyterlab/rendermime", "@jupyterlab/outputarea", "@lumino/signaling", "@jupyter-widgets/jupyterlab-manager"].map(shared),
    );
    const icon = new LabIcon({ name: "modal-workbench:icon", svgstr: ICON });

    // What is shown, and the kernel that it is of. Its kernel is started when it is seen for the first time, and goes on
    // when it is closed, as a notebook's does: whoever opens it again, or loads the page again, finds what was there.
    class Page extends MainAreaWidget {
      constructor(app, rendermime, closed) {
        const registry = rendermime.clone();
        const area = new SimplifiedOutputArea({ model: new OutputAreaModel({ trusted: true }), rendermime: registry });
        super({ content: area });
        this.id = ID;
        this.area = area;
        this.closed = closed;
        this.title.icon = icon;
        this.title.closable = true;
        area.node.style.overflow = "auto";
        const { sessions, kernelspecs } = app.serviceManager;
        this.sessionContext = new SessionContext({
          sessionManager: sessions,
          specsManager: kernelspecs,
          path: ID,
          name: "Modal workbench",
          type: "workbench",
          kernelPreference: { name: "python3", shouldStart: true, canStart: true, shutdownOnDispose: false },
        });
        const context = { sessionContext: this.sessionContext, model: { getMetadata: () => undefined }, saveState: new Signal(this) };
        widgets.registerWidgetManager(context, registry, []);
        const command = (name, label) => {
          const tooltip = app.commands.caption(name);
          const control = new ToolbarButton({ label, tooltip, onClick: () => app.commands.execute(name) });
          this.toolbar.addItem(name, control);
          return control;
        };
        this.moves = { main: command(BESIDE, "to the side bar"), right: command(COMMAND, "to the main area") };
        command(ELSEWHERE, "connect …");
        command(AGAIN, "start again");
      }
      // Where it stands: JupyterLab names a side bar's entry by its icon alone.
      place(where) {
        for (const [area, control] of Object.entries(this.moves)) control.setHidden(area !== where);
        this.area.node.style.minWidth = where === "main" ? "" : "360px"; // a side bar's own width is too little to work in
        this.title.label = where === "main" ? "Modal workbench" : "";
        this.title.caption = "Modal workbench: deploy, launch, watch, inspect and replay jobs";
      }
      onCloseRequest() {
        this.closed();
      }
      onAfterAttach(message) {
        super.onAfterAttach(message);
        if (this.isVisible) this.start();
      }
      onAfterShow(message) {
        super.onAfterShow(message);
        this.start();
      }
      start() {
        this.started ??= this.sessionContext.initialize().then(() => this.run(SHOWN)).catch((error) => {
          this.started = undefined;
          this.area.node.textContent = `The workbench cannot be shown: ${error.message}`;
        });
        return this.started;
      }
      async run(code) {
        await this.sessionContext.ready;
        await SimplifiedOutputArea.execute(code, this.area, this.sessionContext);
      }
      async again() {
        await this.start();
        if (this.sessionContext.session?.kernel) await this.sessionContext.restartKernel();
        else await this.sessionContext.startKernel();
        await this.run(SHOWN);
      }
    }

    const activate = (app, rendermime, launcher, palette, restorer) => {
      const { commands, shell } = app;
      const page = new Page(app, rendermime, () => put("right")); // closed: it is an icon of the side bar again
      const put = (where) => {
        page.place(where);
        shell.add(page, where, where === "main" ? { activate: false } : { rank: 900 });
      };
      const open = (where) => {
        if (![...shell.widgets(where)].includes(page)) put(where);
        shell.activateById(ID);
        return page;
      };
      commands.addCommand(COMMAND, {
        label: "Modal workbench",
        caption: "Deploy, launch, watch, inspect and replay jobs",
        icon,
        execute: () => open("main"),
      });
      commands.addCommand(BESIDE, { label: "Modal workbench in the side bar", caption: "Beside any notebook", icon, execute: () => open("right") });
      commands.addCommand(AGAIN, { label: "Restart the Modal workbench", caption: "Restart its kernel; runs under way end", execute: () => page.again() });
      commands.addCommand(ELSEWHERE, {
        label: "Connect the Modal workbench …",
        caption: "To another target: local, modal, or an endpoint's URL, and an app's name",
        execute: async () => {
          const { value } = await InputDialog.getText({ title: "Target, and the app's name if it is another", text: "local" });
          if (value === null) return;
          await page.start();
          await page.run(connected(value));
        },
      });
      launcher?.add({ command: COMMAND, category: "Other", rank: 0 });
      for (const command of [COMMAND, BESIDE, AGAIN, ELSEWHERE]) palette?.addItem({ command, category: "Modal" });
      restorer?.add(page, ID);
      put("right");
      app.restored.then(() => {
        page.place([...shell.widgets("main")].includes(page) ? "main" : "right");
        if (asked && !page.isVisible) open("main");
      });
    };
    return [{ id: "modal-workbench:plugin", autoStart: true, requires: [IRenderMimeRegistry], optional: [ILauncher, ICommandPalette, ILayoutRestorer], activate }];
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
